"""The audio of a session: the same plans for any chunks, at any hour, in bounded memory."""

import pickle
from collections.abc import Iterable
from dataclasses import replace
from math import ceil, floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from live_avatar.config import SAMPLE_RATE_HZ, TINY, Preset
from live_avatar.model.speech import build_speech_encoder, hidden_states, hop_samples, normalise
from live_avatar.streaming.audio_grid import state_position
from live_avatar.streaming.audio_window import MAX_PENDING_S, AudioWindow, BlockPlan, encode_block
from live_avatar.streaming.resample import Samples

FAST = settings(max_examples=25, deadline=None)
BLOCK = TINY.samples_per_block
HOP = hop_samples(TINY.speech)
PHASES = 5
"""Blocks after which frames fall on the same places between hidden states."""
LEARNT = 11
"""Blocks after which the statistics of an always audible stream have settled."""


def listening(left_context_s: float = 1.0, lookahead_s: float = 0.1, fps: int = 25) -> Preset:
    stream = replace(TINY.stream, left_context_s=left_context_s, lookahead_s=lookahead_s, fps=fps)
    return replace(TINY, stream=stream)


def speech(count: int, level: float = 0.1) -> Samples:
    """Noise whose loudness rises and falls, never to silence."""
    loudness = level * (1.2 + np.sin(np.arange(count) / 900))
    return (np.random.default_rng(0).standard_normal(count) * loudness).astype(np.float32)


def stream(window: AudioWindow, chunks: Iterable[Samples]) -> list[BlockPlan]:
    """All plans of a stream that ends after ``chunks``."""
    plans = []
    for chunk in chunks:
        window.append(chunk)
        while window.ready():
            plans.append(window.next_block())
    window.finish()
    while window.ready():
        plans.append(window.next_block())
    return plans


def assert_same(first: BlockPlan, second: BlockPlan, *, block_too: bool = True) -> None:
    assert np.array_equal(first.samples, second.samples)
    assert (first.lower, first.upper, first.weights) == (second.lower, second.upper, second.weights)
    assert first.block == second.block or not block_too


@FAST
@given(
    cuts=st.lists(st.one_of(st.just(1), st.integers(0, 2000), st.just(48_000)), min_size=1, max_size=15),
    lookahead_s=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_any_chunks_give_the_same_plans(cuts: list[int], lookahead_s: float) -> None:
    preset, samples = listening(lookahead_s=lookahead_s), speech(sum(cuts))
    chunked = stream(AudioWindow(preset), np.split(samples, np.cumsum(cuts)[:-1]))
    blocks = stream(AudioWindow(preset), np.split(samples, range(BLOCK, samples.size, BLOCK)))
    assert len(chunked) == len(blocks) == -(-samples.size // BLOCK)
    for plan, other in zip(chunked, blocks, strict=True):
        assert_same(plan, other)


def test_single_samples_give_the_same_plans() -> None:
    samples = speech(2 * BLOCK + 77)
    for plan, other in zip(
        stream(AudioWindow(TINY), np.split(samples, samples.size)), stream(AudioWindow(TINY), [samples]), strict=True
    ):
        assert_same(plan, other)


@pytest.mark.parametrize("lookahead_s", [0.0, 0.1])
def test_a_block_waits_for_its_lookahead_and_no_longer(lookahead_s: float) -> None:
    needed = BLOCK + round(lookahead_s * 16_000)
    samples = speech(needed + 5000)
    early, late = AudioWindow(listening(lookahead_s=lookahead_s)), AudioWindow(listening(lookahead_s=lookahead_s))
    early.append(samples[: needed - 1])
    assert not early.ready()
    with pytest.raises(ValueError, match=f"block 0 is not ready, the stream stands at sample {needed - 1}"):
        early.next_block()
    early.append(samples[needed - 1 : needed])
    late.append(samples)
    assert_same(early.next_block(), late.next_block())


@pytest.mark.parametrize("fps", [16, 24, 25])
def test_windows_lie_on_the_absolute_grid(fps: int) -> None:
    preset = listening(left_context_s=0.5, fps=fps)
    samples, block_samples = speech(8 * preset.samples_per_block), preset.samples_per_block
    plans = stream(AudioWindow(preset), np.array_split(samples, 100))
    for plan in plans[:-1]:
        first_state = plan.block * block_samples // HOP - 25
        received = (plan.block + 1) * block_samples + 1600
        past = [0.0] * max(0, -first_state * HOP)
        raw = np.concatenate([past, samples[max(0, first_state * HOP) : received]])
        raw = np.concatenate([raw, np.zeros(plan.samples.size - raw.size)])
        gain, offset = np.polyfit(raw, plan.samples, 1)
        assert np.abs(raw * gain + offset - plan.samples).max() < 1e-5
        frames = range(plan.block * preset.frames_per_block, (plan.block + 1) * preset.frames_per_block)
        for place, frame in enumerate(frames):
            position = first_state + plan.lower[place] + plan.weights[place]
            assert position == pytest.approx(float(state_position(frame, fps, HOP)), abs=1e-9)
            assert plan.upper[place] - plan.lower[place] == (plan.weights[place] > 0)


def test_every_window_has_the_same_length() -> None:
    for preset in (TINY, listening(fps=16), listening(lookahead_s=0.0)):
        window = AudioWindow(preset)
        sizes = {plan.samples.size for plan in stream(window, np.array_split(speech(12 * BLOCK + 5), 30))}
        assert sizes == {window.window_samples}


def test_ten_hours_on_it_is_the_same() -> None:
    samples = speech(8 * BLOCK)
    near = stream(AudioWindow(TINY), [samples])
    far = stream(AudioWindow(TINY, first_block=75_000), [samples])
    assert [plan.block for plan in far] == list(range(75_000, 75_008))
    for plan, other in zip(near, far, strict=True):
        assert_same(plan, other, block_too=False)


def test_repeating_audio_gives_repeating_plans_and_constant_memory() -> None:
    cycle, window = speech(PHASES * BLOCK), AudioWindow(listening())
    sizes, plans = [], []
    for _ in range(40):
        window.append(cycle)
        while window.ready():
            plans.append(window.next_block())
        sizes.append(len(pickle.dumps(window)))
    for plan, later in zip(plans[LEARNT + PHASES :], plans[LEARNT + 2 * PHASES :], strict=False):
        assert_same(plan, later, block_too=False)
    assert len(plans) == 40 * PHASES - 1
    assert max(sizes) - min(sizes) < 100


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    window, other = AudioWindow(TINY), AudioWindow(TINY)
    samples = speech(window.room)
    assert window.room == BLOCK + round((TINY.stream.lookahead_s + MAX_PENDING_S) * 16_000)
    window.append(samples)
    with pytest.raises(ValueError, match="1 samples do not fit, there is room for 0"):
        window.append(samples[:1])
    other.append(samples)
    plans = [window.next_block() for _ in range(15)]
    assert window.room == 15 * BLOCK
    for plan in plans:
        assert_same(plan, other.next_block())


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, np.nan], np.float32), "sample 1 is nan"),
        (np.zeros(3), "float64"),
        (np.zeros((1, 3), np.float32), r"\[1, 3\]"),
    ],
)
def test_bad_samples_are_refused_and_change_nothing(samples: Samples, message: str) -> None:
    window, good = AudioWindow(TINY), speech(BLOCK)
    window.append(good)
    with pytest.raises(ValueError, match=message):
        window.append(samples)
    for plan, other in zip(stream(window, [good]), stream(AudioWindow(TINY), [good, good]), strict=True):
        assert_same(plan, other)


@pytest.mark.parametrize(("count", "blocks"), [(0, 0), (1, 1), (BLOCK, 1), (BLOCK + 1, 2)])
def test_finish_fills_the_last_block_with_silence(count: int, blocks: int) -> None:
    samples = speech(count)
    plans = stream(AudioWindow(TINY), [samples])
    assert len(plans) == blocks
    padded = stream(AudioWindow(TINY), [np.concatenate([samples, np.zeros(2 * BLOCK, np.float32)])])
    for plan, other in zip(plans, padded, strict=False):
        assert_same(plan, other)


def test_a_finished_stream_takes_no_more_until_reset() -> None:
    window, samples = AudioWindow(TINY), speech(2 * BLOCK)
    expected = stream(window, [samples])
    with pytest.raises(ValueError, match="has finished"):
        window.append(samples)
    window.reset()
    for plan, other in zip(stream(window, [samples]), expected, strict=True):
        assert_same(plan, other)


def test_silence_stays_silent() -> None:
    digital = stream(AudioWindow(TINY), [np.zeros(3 * BLOCK, np.float32)])
    assert all((plan.samples == 0).all() for plan in digital)
    hiss = stream(AudioWindow(TINY), [speech(3 * BLOCK, level=1e-4)])
    assert max(np.abs(plan.samples).max() for plan in hiss) < 0.2


def test_a_long_silence_first_does_not_spoil_the_level() -> None:
    window = AudioWindow(listening(left_context_s=0.5))
    for _ in range(60):
        window.append(speech(BLOCK, level=1e-4))
        while window.ready():
            window.next_block()
    plans = stream(window, np.split(speech(20 * BLOCK), 20))
    assert 0.7 < np.std(plans[-2].samples[: BLOCK // 2]) < 1.4


def test_loudness_does_not_matter_once_learnt() -> None:
    quiet = stream(AudioWindow(TINY), np.split(speech(15 * BLOCK, level=0.05), 15))
    loud = stream(AudioWindow(TINY), np.split(speech(15 * BLOCK, level=0.5), 15))
    np.testing.assert_allclose(quiet[-2].samples, loud[-2].samples, atol=1e-3)


def test_statistics_settle() -> None:
    chunks = [*np.split(speech(LEARNT * BLOCK), LEARNT), *np.split(speech(6 * BLOCK, level=0.5), 6)]
    plans = stream(AudioWindow(listening(left_context_s=0.5)), chunks)
    received = round(0.6 * 16_000) + BLOCK
    early, late = plans[LEARNT + 2].samples, plans[LEARNT + 3].samples
    assert np.array_equal(early[BLOCK:received], late[: received - BLOCK])
    assert np.std(late[:received]) > 2


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (listening(left_context_s=0.0), r"left_context_s=0\.0"),
        (listening(lookahead_s=-0.1), r"lookahead_s=-0\.1"),
        (listening(fps=29), "fps=29"),
    ],
)
def test_refuses_settings_that_give_no_grid(preset: Preset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioWindow(preset)


def test_refuses_a_negative_block() -> None:
    with pytest.raises(ValueError, match="first_block=-1"):
        AudioWindow(TINY, first_block=-1)


@torch.no_grad()
def test_streamed_features_resemble_those_of_the_whole_recording() -> None:
    torch.manual_seed(0)
    model, samples = build_speech_encoder(TINY.speech), speech(10 * BLOCK)
    plans = stream(AudioWindow(TINY), np.split(samples, 10))
    streamed = torch.cat([encode_block(model, plan) for plan in plans[:-1]], dim=-1)
    frames = 9 * TINY.frames_per_block
    assert streamed.shape == (1, TINY.speech.states, TINY.speech.hidden_size, frames)

    states = hidden_states(model, normalise(torch.from_numpy(samples))[None])
    positions = [state_position(frame, TINY.stream.fps, HOP) for frame in range(frames)]
    weights = torch.tensor([float(position % 1) for position in positions])[:, None]
    lower, upper = (states[:, :, [end(position) for position in positions]] for end in (floor, ceil))
    whole = torch.lerp(lower, upper, weights).transpose(2, 3)
    error = float((streamed - whole).square().mean().sqrt() / whole.std())
    assert error < 0.3
    one_state_late = torch.lerp(states[:, :, [floor(position) + 1 for position in positions]], upper, weights)
    assert float((streamed - one_state_late.transpose(2, 3)).square().mean().sqrt() / whole.std()) > 2 * error


def test_samples_that_served_as_look_ahead_can_be_replaced() -> None:
    """The next block hears what came in their place and nothing of them."""
    rng = np.random.default_rng(0)
    ahead = round(TINY.stream.lookahead_s * SAMPLE_RATE_HZ)
    speech = rng.normal(0, 0.1, BLOCK + ahead).astype(np.float32)
    plans = []
    for hum in (0.0, 0.001):
        window = AudioWindow(TINY)
        window.append(np.concatenate((np.zeros(BLOCK), np.full(ahead, hum))).astype(np.float32))
        window.next_block()
        window.rewind(BLOCK)
        window.append(speech)
        plans.append(window.next_block())
    assert np.array_equal(plans[0].samples, plans[1].samples)
    assert plans[0].samples.std() > 0.1
    for position in (BLOCK - 1, 2 * BLOCK + ahead + 1):
        with pytest.raises(ValueError, match=f"sample {position} "):
            window.rewind(position)
    window.finish()
    with pytest.raises(ValueError, match="goes on"):
        window.rewind(2 * BLOCK)
