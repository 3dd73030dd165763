"""Which feature belongs to which frame, and the features of a whole recording."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from live_avatar.config import S2V_14B, TINY
from live_avatar.model.speech import build_speech_encoder, hidden_states, normalise
from live_avatar.streaming.audio_grid import (
    bucket_count,
    bucket_features,
    bucket_indices,
    exact_features,
    feature_index,
    interpolate_to_feature_rate,
    state_position,
    whole_file_blocks,
    whole_file_features,
)

KNOWN = [
    [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13],
    [14, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 28],
    [29, 30, 31, 32, 34, 35, 36, 37, 38, 40, 41, 42],
    [43, 44, 46, 47, 48, 49, 50, 52, 53, 54, 55, 56],
    [58, 59, 60, 61, 62, 64, 65, 66, 67, 68, 70, 71],
]


@pytest.mark.parametrize("far", [0, 5, 75_000])
def test_feature_of_each_frame(far: int) -> None:
    for block, expected in enumerate(KNOWN):
        first = (far + block) * 12
        offset = far // 5 * 72
        assert [feature_index(frame, 25) - offset for frame in range(first, first + 12)] == expected


def test_halves_go_to_the_even_feature() -> None:
    assert [feature_index(frame, 24) for frame in (2, 6, 10)] == [2, 8, 12]


def test_states_lie_five_thirds_of_a_feature_apart() -> None:
    assert state_position(0, 25, 320) == 0
    assert state_position(11, 25, 320) == Fraction(65, 3)
    assert state_position(900_000, 25, 320) == 1_800_000


@pytest.mark.parametrize(("steps", "features", "clips"), [(249, 149, 3), (499, 299, 6), (2999, 1799, 32)])
def test_known_durations(steps: int, features: int, clips: int) -> None:
    assert interpolate_to_feature_rate(torch.zeros(1, steps, 1), 50).shape[1] == features
    assert bucket_count(features, 25, 48) == clips
    assert len(bucket_indices(features, 25, 48)) == clips * 48


def test_feature_count_rounds_like_the_reference() -> None:
    assert interpolate_to_feature_rate(torch.zeros(1, 205, 1), 50).shape[1] == 122


def test_interpolation_keeps_both_ends() -> None:
    features = interpolate_to_feature_rate(torch.arange(101.0)[None, :, None], 50)[0, :, 0]
    torch.testing.assert_close(features, torch.linspace(0, 100, 60))


def test_buckets_clamp_neighbours_and_are_zero_past_the_end() -> None:
    features = torch.arange(1.0, 11.0)[None, :, None]
    assert bucket_features(features, 25, 12)[0, 0, 0].tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 0, 0, 0, 0]
    around = bucket_features(features, 25, 12, neighbours=1)[0, 0]
    assert around[:, 0].tolist() == [1, 1, 2]
    assert around[:, 7].tolist() == [8, 9, 10]
    assert (around[:, 8:] == 0).all()


def test_an_exact_fit_adds_a_bucket() -> None:
    assert [bucket_count(features, 25, 60) for features in (71, 72, 73)] == [1, 2, 2]


@pytest.mark.parametrize("fps", [0, 31])
def test_refuses_rates_above_the_features(fps: int) -> None:
    with pytest.raises(ValueError, match=f"fps={fps}"):
        bucket_features(torch.zeros(1, 10, 1), fps, 12)


def test_blocks_of_a_recording() -> None:
    torch.manual_seed(0)
    model, waveform = build_speech_encoder(TINY.speech), torch.randn(20_000) * 0.1
    blocks = list(whole_file_blocks(model, waveform, TINY))
    shape = (1, TINY.speech.states, TINY.speech.hidden_size, TINY.frames_per_block)
    assert [block.shape for block in blocks] == [shape] * 3
    assert torch.equal(torch.cat(blocks, dim=-1), whole_file_features(model, waveform, TINY))
    clip = whole_file_features(model, waveform, TINY, batch_frames=48)
    assert torch.equal(clip[..., :36], torch.cat(blocks, dim=-1))
    assert (clip[..., 36:] == 0).all()


def test_an_exact_grid_takes_states_of_their_own_time_and_the_reference_stretches() -> None:
    frames, hop = 252, 320
    states = torch.arange(frames * 2.0 - 1)[None, :, None]
    features = interpolate_to_feature_rate(states, 50)
    indices = bucket_indices(features.shape[1], 25, 12)
    exact = exact_features(states, indices, features.shape[1], 25, hop)[0, 0, 0]
    stretched = bucket_features(features, 25, 12)[0, 0, 0]
    own = torch.tensor([float(state_position(frame, 25, hop)) for frame in range(240)])
    torch.testing.assert_close(exact[:240], own)
    assert 1 < float((stretched - exact)[239]) < 3, "states of 20 ms"
    assert exact.shape == stretched.shape and torch.equal(exact == 0, stretched == 0)


def test_the_preset_chooses_the_grid() -> None:
    torch.manual_seed(0)
    model, waveform = build_speech_encoder(TINY.speech), torch.randn(40_000) * 0.1
    reference = replace(TINY, stream=replace(TINY.stream, whole_file_grid="reference"))
    states = hidden_states(model, normalise(waveform)[None])[0]
    features = interpolate_to_feature_rate(states, 50)
    assert torch.equal(whole_file_features(model, waveform, reference), bucket_features(features, 25, 12))
    indices = bucket_indices(features.shape[1], 25, 12)
    exact = exact_features(states, indices, features.shape[1], 25, 320)
    assert torch.equal(whole_file_features(model, waveform, TINY), exact)
    assert S2V_14B.stream.whole_file_grid == "reference"


def test_shortest_recording() -> None:
    model = build_speech_encoder(TINY.speech)
    assert len(list(whole_file_blocks(model, torch.ones(720), TINY))) == 1
    with pytest.raises(ValueError, match="719 samples is too short, 720 are needed"):
        next(whole_file_blocks(model, torch.ones(719), TINY))
