"""The speech encoder: architecture, names, and what its hidden states are."""

import json
from pathlib import Path

import pytest
import torch

from live_avatar.config import S2V_14B, TINY, SpeechConfig
from live_avatar.model.speech import (
    build_speech_encoder,
    hidden_states,
    hop_samples,
    normalise,
    normalise_key,
    public_names,
    receptive_samples,
)

MANIFEST = Path(__file__).parents[1] / "golden" / "data" / "manifests" / "wav2vec2_xlsr53_large.json"
SMALL = SpeechConfig(hidden_size=32, num_layers=2, num_heads=4, ffn_dim=48, conv_dim=(8,) * 7)


def test_production_encoder_is_exactly_the_public_checkpoint() -> None:
    manifest = json.loads(MANIFEST.read_text())
    with torch.device("meta"):
        state = build_speech_encoder(S2V_14B.speech).state_dict()
    names = public_names(S2V_14B.speech)
    assert {public: list(state[ours].shape) for public, ours in names.items()} == {
        key: shape for key, (shape, _) in manifest.items()
    }
    assert state.keys() == set(names.values())


@pytest.mark.parametrize(
    ("public", "expected"),
    [
        ("encoder.layer_norm.bias", "encoder.layer_norm.bias"),
        ("wav2vec2.masked_spec_embed", "masked_spec_embed"),
        ("lm_head.weight", None),
        (
            "wav2vec2.encoder.pos_conv_embed.conv.weight_g",
            "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        ),
        ("encoder.pos_conv_embed.conv.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    ],
)
def test_normalise_key(public: str, expected: str | None) -> None:
    assert normalise_key(public) == expected


def test_every_spelling_names_the_same_tensors() -> None:
    names = public_names(TINY.speech)
    old = {
        "wav2vec2."
        + key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        )
        for key in names
    }
    assert {normalise_key(key) for key in old} == names.keys()


def test_grid_of_the_convolutions() -> None:
    assert (hop_samples(S2V_14B.speech), receptive_samples(S2V_14B.speech)) == (320, 400)
    model = build_speech_encoder(SMALL)
    for samples in (400, 719, 720, 7680):
        states = hidden_states(model, torch.zeros(1, samples))
        assert states.shape == (1, SMALL.states, (samples - 400) // 320 + 1, SMALL.hidden_size)


def test_only_the_last_state_has_passed_the_final_norm() -> None:
    torch.manual_seed(0)
    model = build_speech_encoder(SMALL)
    with torch.no_grad():
        model.get_parameter("encoder.layer_norm.weight").fill_(0.0)
        model.get_parameter("encoder.layer_norm.bias").fill_(3.0)
    states = hidden_states(model, torch.randn(2, 4000))
    assert (states[:, -1] == 3.0).all()
    assert (states[:, :-1] != 3.0).all()


def test_nothing_is_masked_or_dropped() -> None:
    torch.manual_seed(0)
    model, samples = build_speech_encoder(SMALL), torch.randn(1, 8000)
    before = hidden_states(model, samples)
    with torch.no_grad():
        model.get_parameter("masked_spec_embed").fill_(100.0)
    model.train()
    torch.testing.assert_close(hidden_states(model, samples), before, rtol=0, atol=0)


def test_normalise() -> None:
    torch.manual_seed(0)
    result = normalise(torch.randn(5000) * 0.02 + 0.3)
    assert result.dtype == torch.float32
    assert abs(float(result.mean())) < 1e-6
    # The constant under the root takes 1e-7 of a variance of 4e-4.
    assert float(result.double().std(correction=0)) == pytest.approx(1.0, abs=2e-4)
    assert (normalise(torch.zeros(10)) == 0).all()


@pytest.mark.parametrize("shape", [(0,), (2, 100)])
def test_normalise_refuses_what_is_no_waveform(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a waveform is \[N\]"):
        normalise(torch.zeros(shape))
