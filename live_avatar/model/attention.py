"""Attention layers: the projections, and who attends to what is decided by the caller.

``Attention`` projects and normalises; it holds no positions, no mask and no cache.  Self-attention is handed a
``SelfAttend`` (see ``attention_patterns``), cross-attention its keys and values.

Letters: B batch, L tokens, H heads, D head width, C width.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class SelfAttend(Protocol):
    """How the tokens of one forward attend to each other, to the past and to the sink."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends with un-rotated ``q``, ``k``, ``v`` [B, L, H, D] of one layer; returns [B, L, H, D]."""
        ...


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention, scale 1/sqrt(D); ``q`` [B, L, H, D], ``k`` and ``v`` [B, M, H, D], ``mask`` [L, M] bool."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.transpose(1, 2)


class RMSNorm(nn.Module):
    """Root-mean-square norm over all channels, statistics in float32 (spec 1.10)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``x`` [..., C]; same shape and dtype."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Query, key, value and output projections with normalised queries and keys."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def queries(self, x: Tensor) -> Tensor:
        """Queries [B, L, H, D] of ``x`` [B, L, C]."""
        return self._heads(self.norm_q(self.q(x)))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [B, L, H, D], of ``x`` [B, L, C]."""
        return self._heads(self.norm_k(self.k(x))), self._heads(self.v(x))

    def output(self, attended: Tensor) -> Tensor:
        """Joins the heads of ``attended`` [B, L, H, D] to [B, L, C]."""
        out: Tensor = self.o(rearrange(attended, "b l h d -> b l (h d)"))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l (h d) -> b l h d", h=self.num_heads)


class SelfAttention(Attention):
    """Attention of tokens to tokens, by the caller's pattern."""

    def forward(self, x: Tensor, layer: int, pattern: SelfAttend) -> Tensor:
        """Attends ``x`` [B, L, C] as ``layer`` of the model; returns [B, L, C]."""
        return self.output(pattern(layer, self.queries(x), *self.keys_values(x)))


class CrossAttention(Attention):
    """Attention of tokens to given keys and values, all of them, without a mask."""

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends ``x`` [B, L, C] to ``k`` and ``v`` [B, M, H, D]; returns [B, L, C]."""
        return self.output(attend(self.queries(x), k, v))
