"""Which speech features belong to which video frame, and the features of a recording of known length (spec 4.1, 4.2).

Three clocks meet here: hidden states of the speech encoder (50 Hz), features (30 Hz) and video frames (25 Hz).  All
positions are integers or exact fractions counted from the start of the session, so nothing drifts.  Streams of
unknown length are the business of ``audio_window``, which shares this grid.

Letters: S hidden states (layers + 1), T encoder steps, O features, D width, F frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch.nn import functional

from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.model.speech import hidden_states, hop_samples, normalise, receptive_samples

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

FEATURE_RATE_HZ = 30
"""Rate hidden states are brought to before frames pick from them (spec 4.1 step 4)."""


def feature_index(frame: int, fps: int, feature_rate_hz: int = FEATURE_RATE_HZ) -> int:
    """The feature nearest to video frame ``frame``; halves go to the even neighbour (spec 4.2)."""
    return round(Fraction(frame * feature_rate_hz, fps))


def state_position(frame: int, fps: int, hop: int) -> Fraction:
    """Where the feature of video frame ``frame`` lies between hidden states ``hop`` samples apart (spec 4.3 step 4)."""
    return Fraction(feature_index(frame, fps) * SAMPLE_RATE_HZ, hop * FEATURE_RATE_HZ)


def interpolate_to_feature_rate(
    states: torch.Tensor, state_rate_hz: int, feature_rate_hz: int = FEATURE_RATE_HZ
) -> torch.Tensor:
    """Hidden states [S, T, D] of a whole recording as features [S, O, D], first and last kept in place (spec 4.1).

    Raises:
        ValueError: too short for a single feature.
    """
    # In floating point and in this order like the reference: at T = 205 and 545 others exact arithmetic gives one more.
    count = int(states.shape[1] / state_rate_hz * feature_rate_hz)
    if count < 1:
        raise ValueError(f"{states.shape[1]} hidden states are too few for one feature")
    channels_first = rearrange(states, "s t d -> s d t")
    features = functional.interpolate(channels_first, size=count, mode="linear", align_corners=True)
    return rearrange(features, "s d o -> s o d")


def bucket_count(features: int, fps: int, batch_frames: int, feature_rate_hz: int = FEATURE_RATE_HZ) -> int:
    """Batches of ``batch_frames`` video frames that cover ``features``; an exact fit adds one more (spec 4.2)."""
    return features * fps // (batch_frames * feature_rate_hz) + 1


def bucket_indices(features: int, fps: int, batch_frames: int, feature_rate_hz: int = FEATURE_RATE_HZ) -> list[int]:
    """The feature index of every video frame of ``bucket_count`` batches; may point past the last feature."""
    frames = bucket_count(features, fps, batch_frames, feature_rate_hz) * batch_frames
    return [feature_index(frame, fps, feature_rate_hz) for frame in range(frames)]


def bucket_features(
    features: torch.Tensor,
    fps: int,
    batch_frames: int,
    neighbours: int = 0,
    feature_rate_hz: int = FEATURE_RATE_HZ,
) -> torch.Tensor:
    """Features [S, O, D] per video frame, [1, S, (2 neighbours + 1) D, F] (spec 4.2).

    Each frame gets its feature between ``neighbours`` on either side, clamped at the ends of the recording.  Frames
    past the recording are zero.  F is the next multiple of ``batch_frames``.

    Raises:
        ValueError: ``fps`` is above the feature rate.
    """
    if not 0 < fps <= feature_rate_hz:
        raise ValueError(f"fps={fps} is not in 1..{feature_rate_hz}")
    count = features.shape[1]
    centre = torch.tensor(bucket_indices(count, fps, batch_frames, feature_rate_hz), device=features.device)
    offsets = torch.arange(-neighbours, neighbours + 1, device=features.device) * (feature_rate_hz // fps)
    picked = features[:, (centre[:, None] + offsets).clamp(0, count - 1)]
    picked = picked * (centre < count)[:, None, None]
    return rearrange(picked, "s f w d -> 1 s (w d) f")


def whole_file_features(
    model: Wav2Vec2Model, waveform: torch.Tensor, preset: Preset, batch_frames: int | None = None
) -> torch.Tensor:
    """Features [1, S, D, F] of a whole recording [N] at ``SAMPLE_RATE_HZ``, on the grid of the preset.

    F is a multiple of ``batch_frames`` (default: one block).  Attention spans the recording, so time grows with its
    square and memory with its length; long ones belong into an ``AudioWindow``.

    Raises:
        ValueError: the recording is too short to be encoded.
    """
    shortest = receptive_samples(preset.speech) + hop_samples(preset.speech)
    if waveform.shape[-1] < shortest:
        raise ValueError(f"a recording of {waveform.shape[-1]} samples is too short, {shortest} are needed")
    states = hidden_states(model, normalise(waveform)[None])[0]
    rules, batch, hop = preset.stream, batch_frames or preset.frames_per_block, hop_samples(preset.speech)
    features = interpolate_to_feature_rate(states, SAMPLE_RATE_HZ // hop)
    if rules.whole_file_grid == "reference":
        return bucket_features(features, rules.fps, batch)
    indices = bucket_indices(features.shape[1], rules.fps, batch)
    return exact_features(states, indices, features.shape[1], rules.fps, hop)


def exact_features(states: torch.Tensor, indices: list[int], count: int, fps: int, hop: int) -> torch.Tensor:
    """Hidden states [S, T, D] at the time of every frame, [1, S, D, F]; zero where ``indices`` [F] reach ``count``.

    What ``bucket_features`` picks from features that keep first and last in place, and are stretched for it, is here
    taken from the hidden states themselves, like the features of a stream (spec 4.3).
    """
    positions = [min(state_position(frame, fps, hop), Fraction(states.shape[1] - 1)) for frame in range(len(indices))]
    lower, upper = ([end(each) for each in positions] for end in (math.floor, math.ceil))
    weights = torch.tensor([float(each % 1) for each in positions], dtype=states.dtype, device=states.device)
    picked = torch.lerp(states[:, lower], states[:, upper], weights[:, None])
    inside = torch.tensor([index < count for index in indices], device=states.device)
    return rearrange(picked * inside[:, None], "s f d -> 1 s d f")


def whole_file_blocks(model: Wav2Vec2Model, waveform: torch.Tensor, preset: Preset) -> Iterator[torch.Tensor]:
    """The features of ``whole_file_features`` block by block, each [1, S, D, frames of a block].

    Raises:
        ValueError: the recording is too short to be encoded.
    """
    yield from whole_file_features(model, waveform, preset).split(preset.frames_per_block, dim=-1)
