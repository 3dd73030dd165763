"""The text encoder: names, cleaning, cutting, and that padding makes no difference."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import T5Tokenizer

from live_avatar.config import S2V_14B, TINY
from live_avatar.model.text import (
    MAX_PROMPT_CHARACTERS,
    TextEncoder,
    build_text_encoder,
    build_tokenizer,
    clean,
    public_names,
)

MANIFEST = Path(__file__).parents[1] / "golden" / "data" / "manifests" / "umt5_xxl_encoder.json"
END = 1


def text_encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(build_text_encoder(TINY.text), build_tokenizer(TINY.text), TINY.dit.text_len)


def test_production_encoder_is_exactly_the_public_checkpoint() -> None:
    manifest = json.loads(MANIFEST.read_text())
    with torch.device("meta"):
        state = build_text_encoder(S2V_14B.text).state_dict()
    names = public_names(S2V_14B.text)
    assert {public: list(state[ours].shape) for public, ours in names.items()} == {
        key: shape for key, (shape, _) in manifest.items()
    }
    assert state.keys() == set(names.values())


@torch.no_grad()
def test_relative_buckets_are_the_known_ones() -> None:
    attention = build_text_encoder(TINY.text).get_submodule("block.0.layer.0.SelfAttention")
    table = attention.get_parameter("relative_attention_bias.weight")
    table.copy_(torch.arange(table.shape[0])[:, None])
    query = 200
    buckets = attention.compute_bias(401, 401)[0, 0, query]  # type: ignore[operator]
    known = {-200: 15, -128: 15, -64: 14, -20: 10, -9: 8, -8: 8, -1: 1, 0: 0, 1: 17, 7: 23, 8: 24, 9: 24, 16: 26}
    known |= {32: 28, 64: 30, 128: 31}
    assert {reference_offset: int(buckets[query + reference_offset]) for reference_offset in known} == known


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a \n\t cat ", "a cat"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("cafÃ©", "café"),
        ("", ""),
    ],
)
def test_clean(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned


def test_tokens_end_and_are_cut_to_text_len() -> None:
    text = text_encoder()
    short, long = text.token_ids("a  cat"), text.token_ids("é" * 500)
    assert short.tolist() == [byte + 3 for byte in b"a cat"] + [END]
    assert long.shape == (TINY.dit.text_len,)
    assert long[-1] == END


def test_encode_gives_one_row_per_token() -> None:
    text = text_encoder()
    assert text.encode("a cat").shape == (6, TINY.text.dim)
    assert text.encode("").shape == (1, TINY.text.dim)


@torch.no_grad()
def test_padding_changes_no_valid_row() -> None:
    torch.manual_seed(0)
    model = build_text_encoder(TINY.text)
    text = TextEncoder(model, build_tokenizer(TINY.text), TINY.dit.text_len)
    ids = text.token_ids("a person who speaks")
    padded = torch.nn.functional.pad(ids, (0, TINY.dit.text_len - ids.numel()))[None]
    mask = torch.arange(TINY.dit.text_len)[None] < ids.numel()
    expected = model(input_ids=padded, attention_mask=mask).last_hidden_state[0, : ids.numel()]
    torch.testing.assert_close(text.encode_ids(ids), expected, rtol=1e-5, atol=1e-5)


def test_a_prompt_has_a_limit() -> None:
    text = text_encoder()
    assert text.token_ids("x" * MAX_PROMPT_CHARACTERS).numel() == TINY.dit.text_len
    with pytest.raises(ValueError, match=f"{MAX_PROMPT_CHARACTERS + 1} characters"):
        text.token_ids("x" * (MAX_PROMPT_CHARACTERS + 1))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_umt5_tokenizer_comes_from_a_local_folder(tmp_path: Path) -> None:
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁hello", -1.0), ("▁world", -2.0)]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(tmp_path)
    config = replace(TINY.text, tokenizer="umt5")
    text = TextEncoder(build_text_encoder(config), build_tokenizer(config, tmp_path), text_len=3)
    assert text.token_ids("hello world hello").tolist() == [3, 4, END]


@pytest.mark.parametrize("folder", [None, Path("no-such-folder")])
def test_umt5_tokenizer_needs_its_folder(folder: Path | None) -> None:
    with pytest.raises(ValueError, match=r"needs a folder with its files, not (None|no-such-folder)"):
        build_tokenizer(S2V_14B.text, folder)


def test_tokenizer_must_fit_the_encoder() -> None:
    with pytest.raises(ValueError, match="384 tokens but vocab_size=100"):
        build_tokenizer(replace(TINY.text, vocab_size=100))


def test_heads_must_split_the_attention() -> None:
    with pytest.raises(ValueError, match="attention_dim=65"):
        build_text_encoder(replace(TINY.text, attention_dim=65))
