"""The resampler: the same bits for any chunks, the right pitch, the right length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_avatar.limits import MAX_RATE_HZ, MIN_RATE_HZ
from live_avatar.streaming.resample import Resampler, Samples, resample

RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]
FAST = settings(max_examples=25, deadline=None)


def noise(count: int) -> Samples:
    return np.random.default_rng(0).standard_normal(count).astype(np.float32) * np.float32(0.1)


@FAST
@given(rate=st.sampled_from(RATES), cuts=st.lists(st.integers(1, 3000), min_size=1, max_size=12))
def test_any_chunks_give_the_bits_of_the_whole(rate: int, cuts: list[int]) -> None:
    samples = noise(sum(cuts))
    resampler = Resampler(rate)
    parts = [resampler.append(part) for part in np.split(samples, np.cumsum(cuts)[:-1])]
    assert np.array_equal(np.concatenate([*parts, resampler.finish()]), resample(samples, rate))


def test_single_samples_give_the_bits_of_the_whole() -> None:
    samples = noise(5000)
    resampler = Resampler(44_100)
    parts = [resampler.append(samples[n : n + 1]) for n in range(samples.size)]
    assert np.array_equal(np.concatenate([*parts, resampler.finish()]), resample(samples, 44_100))


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_stays_in_place(rate: int) -> None:
    time = np.arange(rate) / rate
    result = resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), rate)
    assert result.size == 16_000
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(result - expected)[1000:-1000].max() < 1e-4


@pytest.mark.parametrize("rate", [11_025, 44_100])
def test_a_minute_keeps_its_length(rate: int) -> None:
    resampler = Resampler(rate)
    second = noise(rate)
    counts = [resampler.append(second).size for _ in range(60)]
    assert sum(counts) + resampler.finish().size == 60 * 16_000


def test_reset_and_finish_start_anew() -> None:
    samples, resampler = noise(9000), Resampler(24_000)
    expected = resample(samples, 24_000)
    for restart in (resampler.reset, resampler.finish):
        resampler.append(samples[:5000])
        restart()
        assert np.array_equal(np.concatenate([resampler.append(samples), resampler.finish()]), expected)


def test_encoder_rate_passes_at_once() -> None:
    samples, resampler = noise(100), Resampler(16_000)
    assert np.array_equal(resampler.append(samples), samples)
    assert resampler.finish().size == 0


@pytest.mark.parametrize("rate", [0, -1, MIN_RATE_HZ - 1, MAX_RATE_HZ + 1, 192_000])
def test_refuses_other_rates(rate: int) -> None:
    with pytest.raises(ValueError, match=f"sample rate {rate} Hz"):
        Resampler(rate)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 5), np.float32), r"float32 \[2, 5\]"),
        (np.zeros(5), "float64"),
        (np.array([0, np.nan], np.float32), "sample 1 is nan"),
        (np.array([np.inf], np.float32), "sample 0 is inf"),
    ],
)
def test_refuses_bad_samples_and_goes_on(samples: Samples, message: str) -> None:
    good, resampler = noise(3000), Resampler(48_000)
    first = resampler.append(good)
    with pytest.raises(ValueError, match=message):
        resampler.append(samples)
    rest = np.concatenate([first, resampler.append(good), resampler.finish()])
    assert np.array_equal(rest, resample(np.concatenate([good, good]), 48_000))


@FAST
@given(rate=st.sampled_from(RATES), cuts=st.lists(st.integers(1, 30_000), min_size=2, max_size=10))
def test_another_resampler_goes_on_within_the_noise_of_the_filter(rate: int, cuts: list[int]) -> None:
    """Handed over after each piece; at the encoder's own rate bit for bit."""
    samples, at, parts = noise(sum(cuts)), 0, []
    resampler = Resampler(rate)
    for count in cuts:
        parts.append(resampler.append(samples[at : at + count]))
        at += count
        recent, consumed, produced = samples[at - resampler.memory : at], resampler.consumed, resampler.produced
        resampler = Resampler(rate)
        resampler.go_on(recent, consumed, produced)
    result, expected = np.concatenate([*parts, resampler.finish()]), resample(samples, rate)
    assert result.size == expected.size
    assert np.abs(result - expected).max() < (1e-6 if rate != 16_000 else 1e-12)
