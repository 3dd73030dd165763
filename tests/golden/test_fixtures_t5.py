"""The text encoder against the known answer of its fixture."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import ByT5Tokenizer

from live_avatar.config import TextConfig
from live_avatar.model.text import TextEncoder, build_text_encoder, public_names
from tests.golden.fixture_weights import generate

FIXTURES = Path(__file__).parent / "data" / "fixtures"
ABSOLUTE_TOLERANCE = 1e-4


def test_valid_rows() -> None:
    meta = json.loads((FIXTURES / "fixtures.json").read_text())["t5_small"]
    expected = load_file(FIXTURES / "t5_small.safetensors")
    config = TextConfig(
        vocab_size=meta["vocab"],
        dim=meta["dim"],
        attention_dim=meta["dim_attn"],
        ffn_dim=meta["dim_ffn"],
        num_heads=meta["num_heads"],
        num_layers=meta["num_layers"],
        buckets=meta["num_buckets"],
    )
    model, names = build_text_encoder(config), public_names(config)
    state = model.state_dict()
    public = generate(meta["prefix"], {key: state[ours].shape for key, ours in names.items()})
    model.load_state_dict({names[key]: value for key, value in public.items()}, strict=True)

    text = TextEncoder(model, ByT5Tokenizer(), text_len=meta["seq_len"])
    rows = text.encode_ids(expected["ids"][0, : meta["valid_len"]])
    torch.testing.assert_close(rows, expected["out"], rtol=0, atol=ABSOLUTE_TOLERANCE)
