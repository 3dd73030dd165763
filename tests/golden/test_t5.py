"""The text encoder equals the reference."""

import pytest
import torch
from transformers import ByT5Tokenizer, PreTrainedModel

from live_avatar.config import TextConfig
from live_avatar.model.text import TextEncoder, build_text_encoder, public_names

from .conftest import Golden
from .reference_models import load

pytestmark = pytest.mark.golden_kind("t5")

FIELDS = {
    "vocab": "vocab_size",
    "dim": "dim",
    "dim_attn": "attention_dim",
    "dim_ffn": "ffn_dim",
    "num_heads": "num_heads",
    "num_layers": "num_layers",
    "num_buckets": "buckets",
}


def encoder(golden: Golden) -> PreTrainedModel:
    """Our encoder with the golden's weights, none left over."""
    public = golden.meta["config"]["model"]
    assert not public["shared_pos"]
    config = TextConfig(**{ours: public[theirs] for theirs, ours in FIELDS.items()})
    model, names = build_text_encoder(config), public_names(config)
    weights = golden.weights(golden.meta["config"]["weights"])
    assert weights.keys() == names.keys()
    load(model, names, weights)
    return model


@torch.no_grad()
def test_padded_forward(golden: Golden) -> None:
    ids, mask = golden.tensors["in/ids"], golden.tensors["in/mask"]
    golden.close(encoder(golden)(input_ids=ids, attention_mask=mask).last_hidden_state, "out/hidden")


def test_valid_rows_without_padding(golden: Golden) -> None:
    ids, lengths = golden.tensors["in/ids"], golden.tensors["in/mask"].sum(dim=1).tolist()
    text = TextEncoder(encoder(golden), ByT5Tokenizer(), text_len=ids.shape[1])
    for sample, length in enumerate(lengths):
        golden.close(text.encode_ids(ids[sample, :length]), f"out/trimmed_{sample}")


@torch.no_grad()
def test_position_buckets_and_bias(golden: Golden) -> None:
    attention = encoder(golden).get_submodule("block.0.layer.0.SelfAttention")
    length = golden.tensors["inter/pos_bias_block0"].shape[-1]
    golden.close(attention.compute_bias(length, length), "inter/pos_bias_block0")  # type: ignore[operator]

    # A table that holds its own row numbers gives the buckets themselves.
    table = attention.get_parameter("relative_attention_bias.weight")
    table.copy_(torch.arange(table.shape[0])[:, None])
    length = golden.tensors["inter/bucket_row0"].shape[0]
    buckets = attention.compute_bias(length, length)[0, 0].long()  # type: ignore[operator]
    golden.close(buckets[0], "inter/bucket_row0")
    golden.close(buckets[-1], "inter/bucket_last_row")
