"""The umT5 text encoder: a prompt in, one row per token out (spec 5).

The network itself is the encoder of ``transformers.UMT5EncoderModel``; this file fixes its architecture, its names
in the public checkpoint, and how a prompt is cleaned and cut.  It knows nothing of the DiT that reads the rows.

Letters: B batch, L tokens, C width.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, cast

import ftfy
import torch

from live_avatar.config import TextConfig

if TYPE_CHECKING:
    # Imported where it is called: it takes seconds, and a stage that only asks for names needs nothing of it.
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_PROMPT_CHARACTERS = 8192
"""Longest prompt accepted, several times what ``text_len`` tokens can hold."""

OUTER_NAMES = {"token_embedding.weight": "embed_tokens.weight", "norm.weight": "final_layer_norm.weight"}
LAYER_NAMES = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}


def build_text_encoder(config: TextConfig) -> PreTrainedModel:
    """The encoder stack of ``config`` with random weights, in eval mode.

    Under ``torch.device("meta")`` it takes no memory.  The stack alone is returned, not the model around it, which
    holds the embedding table under a second name.

    Raises:
        ValueError: ``attention_dim`` does not split into the heads.
    """
    if config.attention_dim % config.num_heads:
        raise ValueError(f"attention_dim={config.attention_dim} must split into num_heads={config.num_heads}")
    from transformers import UMT5Config, UMT5EncoderModel

    architecture = UMT5Config(
        vocab_size=config.vocab_size,
        d_model=config.dim,
        d_kv=config.attention_dim // config.num_heads,
        d_ff=config.ffn_dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.buckets,
        relative_attention_max_distance=config.max_distance,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    stack = cast("PreTrainedModel", UMT5EncoderModel(architecture).encoder)
    # The fused form rounds differently; the plain one equals the reference bit for bit in float32.
    stack.set_attn_implementation("eager")
    stack.eval()
    return stack


def public_names(config: TextConfig) -> dict[str, str]:
    """Public parameter name to ours (the table of spec 5)."""
    layers = {
        f"blocks.{layer}.{public}": f"block.{layer}.{ours}"
        for layer in range(config.num_layers)
        for public, ours in LAYER_NAMES.items()
    }
    return OUTER_NAMES | layers


def build_tokenizer(config: TextConfig, folder: Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer ``config`` names; ``folder`` holds its files where it needs some.  Never reaches the network.

    Raises:
        ValueError: the tokenizer needs a folder and there is none, or it has more tokens than the encoder.
    """
    from transformers import AutoTokenizer, ByT5Tokenizer

    if config.tokenizer == "bytes":
        tokenizer: PreTrainedTokenizerBase = ByT5Tokenizer()
    elif folder is None or not folder.is_dir():
        raise ValueError(f"tokenizer {config.tokenizer!r} needs a folder with its files, not {folder}")
    else:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"tokenizer has {len(tokenizer)} tokens but vocab_size={config.vocab_size}")
    return tokenizer


def clean(prompt: str) -> str:
    """``prompt`` with broken Unicode repaired, HTML entities resolved and whitespace collapsed (spec 5)."""
    # Twice: text copied from web pages is often escaped twice.
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


class TextEncoder:
    """Turns one prompt into the rows the DiT attends to."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text_len: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._text_len = text_len

    def token_ids(self, prompt: str) -> torch.Tensor:
        """Token ids [L] of the cleaned prompt, end token included, L <= ``text_len``; what is longer is cut off.

        Raises:
            ValueError: the prompt has more than ``MAX_PROMPT_CHARACTERS`` characters.
        """
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise ValueError(f"prompt has {len(prompt)} characters, at most {MAX_PROMPT_CHARACTERS} are accepted")
        ids: list[int] = self._tokenizer(clean(prompt), max_length=self._text_len, truncation=True)["input_ids"]
        return torch.tensor(ids)

    def encode(self, prompt: str) -> torch.Tensor:
        """Rows [L, C] of the prompt's tokens, without padding, in the model's dtype.

        Raises:
            ValueError: the prompt is too long (``token_ids``).
        """
        return self.encode_ids(self.token_ids(prompt))

    @torch.no_grad()
    def encode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [L, C] of token ids [L] in one forward.

        Padding to ``text_len`` and masking it, as the reference does, changes no valid row: positions are relative.
        """
        rows: torch.Tensor = self._model(input_ids=ids[None].to(self._model.device)).last_hidden_state
        return rows[0]
