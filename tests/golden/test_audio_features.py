"""Speech encoder, feature grid and resampler equal the reference."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from live_avatar.config import SAMPLE_RATE_HZ, SpeechConfig
from live_avatar.model.speech import build_speech_encoder, hidden_states, hop_samples, normalise, normalise_key
from live_avatar.streaming.audio_grid import (
    bucket_count,
    bucket_features,
    bucket_indices,
    interpolate_to_feature_rate,
)
from live_avatar.streaming.resample import resample

from .conftest import Golden

pytestmark = pytest.mark.golden_kind("audio")


def speech_config(golden: Golden) -> SpeechConfig:
    public = golden.meta["config"]["wav2vec2"]
    return SpeechConfig(
        hidden_size=public["hidden_size"],
        num_layers=public["num_hidden_layers"],
        num_heads=public["num_attention_heads"],
        ffn_dim=public["intermediate_size"],
        conv_dim=tuple(public["conv_dim"]),
        conv_kernel=tuple(public["conv_kernel"]),
        conv_stride=tuple(public["conv_stride"]),
        position_kernel=public["num_conv_pos_embeddings"],
        position_groups=public["num_conv_pos_embedding_groups"],
    )


def rates(golden: Golden) -> tuple[int, int]:
    """Video frames and features per second."""
    config = golden.meta["config"]
    return config["video_fps"], config["feature_fps"]


def named(golden: Golden, pattern: str) -> list[int]:
    """The numbers in the tensor names that match ``pattern``."""
    matches = (re.fullmatch(pattern, name) for name in golden.tensors)
    return [int(match[1]) for match in matches if match]


def read_float_wav(path: Path) -> tuple[int, npt.NDArray[np.float32]]:
    """Rate and samples of a mono RIFF file of 32-bit floats, a kind the standard library does not read."""
    data = path.read_bytes()
    chunks, position = {}, 12
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        chunks[data[position : position + 4]] = data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    kind, channels, rate = np.frombuffer(chunks[b"fmt "][:8], [("k", "<u2"), ("c", "<u2"), ("r", "<u4")])[0]
    assert (kind, channels) == (3, 1), f"{path.name} is of kind {kind} with {channels} channels"
    return int(rate), np.frombuffer(chunks[b"data"], "<f4")


def test_normalised_input(golden: Golden) -> None:
    golden.close(normalise(golden.tensors["in/waveform"])[None], "in/input_values")


def test_hidden_states(golden: Golden) -> None:
    model = build_speech_encoder(speech_config(golden))
    weights = golden.weights(golden.meta["config"]["wav2vec_weights"])
    canonical = {normalise_key(key): value for key, value in weights.items()}
    model.load_state_dict({key: value for key, value in canonical.items() if key is not None}, strict=True)
    golden.close(hidden_states(model, golden.tensors["in/input_values"])[0], "wav2vec/hidden_states")


def test_features(golden: Golden) -> None:
    state_rate = SAMPLE_RATE_HZ // hop_samples(speech_config(golden))
    states = golden.tensors["wav2vec/hidden_states"]
    golden.close(interpolate_to_feature_rate(states, state_rate, rates(golden)[1]), "interp/features_30fps")


def test_buckets(golden: Golden) -> None:
    fps, feature_rate = rates(golden)
    features = golden.tensors["interp/features_30fps"]
    for frames in named(golden, r"bucket_(\d+)/features"):
        count = bucket_count(features.shape[1], fps, frames, feature_rate)
        indices = bucket_indices(features.shape[1], fps, frames, feature_rate)
        assert count == int(golden.tensors[f"bucket_{frames}/num_repeat"])
        golden.close(torch.tensor(indices), f"bucket_{frames}/source_index")
        golden.close(bucket_features(features, fps, frames, 0, feature_rate), f"bucket_{frames}/features")


def test_buckets_with_neighbours(golden: Golden) -> None:
    fps, feature_rate = rates(golden)
    features = golden.tensors["interp/features_30fps"]
    for neighbours in named(golden, r"bucket_m(\d+)/features"):
        name = f"bucket_m{neighbours}/features"
        actual = bucket_features(features, fps, golden.meta["config"]["batch_frames"], neighbours, feature_rate)
        golden.close(actual[..., : golden.tensors[name].shape[-1]], name)


def test_resampled_file(golden: Golden) -> None:
    names = [name for name in golden.tensors if re.fullmatch(r"resample/first_\d+_samples_\w+", name)]
    for name in names:
        described = re.search(r"media (\S+\.wav)", golden.meta["tensors"][name]["meaning"])
        assert described, f"{name} does not say which file it was made from"
        path = golden.media(described[1])
        if path is None:
            pytest.skip(f"no media folder with {described[1]} beside the goldens")
        rate, samples = read_float_wav(path)
        actual = torch.from_numpy(resample(samples, rate))
        assert actual.numel() == int(golden.tensors["resample/total_samples_16k"])
        golden.close(actual[: golden.tensors[name].numel()], name)


def test_every_tensor_has_a_test(golden: Golden) -> None:
    groups = {name.split("/")[0].rstrip("0123456789") for name in golden.tensors}
    assert groups <= {"in", "wav2vec", "interp", "bucket_", "bucket_m", "resample", "dit"}
