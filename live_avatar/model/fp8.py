"""Linear layers in 8-bit floats (e4m3): weights scaled once per output channel, activations per token as they come.

``quantise`` replaces the layers that bear most of the arithmetic and are least sensitive: projections of
self-attention, queries and outputs of text attention, and the feed-forward.  The first and the last layers, the audio
injection, the embeddings of text and time and the head stay as they are.

A GPU multiplies by its 8-bit units; everywhere else the same rounded values are multiplied in float32, which is the
twin of the former: both sum products of the same 8-bit numbers in float32.

Letters: B batch, L tokens, K and N channels in and out.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from live_avatar.config import UNROUNDED_ENDS, DiTConfig

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
"""448."""
_SMALLEST_SCALE = 1e-12
_QUANTISED = (
    *(f"self_attn.{name}" for name in ("q", "k", "v", "o")),
    *(f"cross_attn.{name}" for name in ("q", "o")),
    "ffn.0",
    "ffn.2",
)


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """``values`` [M, K] as 8-bit floats [M, K] and the float32 scale [M, 1] of each row: their product is the value."""
    scale = (values.float().abs().amax(dim=-1, keepdim=True) / LARGEST).clamp(min=_SMALLEST_SCALE)
    return (values.float() / scale).clamp(-LARGEST, LARGEST).to(FP8), scale


class FP8Linear(nn.Module):
    """A linear layer with the rounded weights of another."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = rounded(linear.weight.detach())
        self.register_buffer("weight", weight)  # [N, K]
        self.register_buffer("scale", scale)  # [N, 1]
        self.register_buffer("bias", linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, K] to [B, L, N] of the same type."""
        values, scale = rounded(x.flatten(0, -2))
        multiply = multiplied if x.is_cuda else multiplied_in_float32
        out: Tensor = multiply(values, scale, self.weight, self.scale).to(x.dtype) + self.bias
        return out.view(*x.shape[:-1], -1)


def multiplied(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """``values`` [M, K] times ``weight`` [N, K] transposed, with the scales [M, 1] and [N, 1] of their rows, bfloat16.

    By the 8-bit units of a GPU of compute capability 8.9 or later.
    """
    product: Tensor = torch._scaled_mm(
        values, weight.t(), scale_a=scale, scale_b=weight_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return product


def multiplied_in_float32(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """The same product [M, N] on any device; float32."""
    return F.linear(values.float(), weight.float()) * scale * weight_scale.t()


def quantised_layers(config: DiTConfig) -> range:
    """Layers whose linear layers ``quantise`` replaces.

    Raises:
        ValueError: the model has none between its first and last layers.
    """
    layers = range(UNROUNDED_ENDS, config.num_layers - UNROUNDED_ENDS)
    if not layers:
        raise ValueError(f"a model of {config.num_layers} layers has none that may be rounded")
    return layers


def linear_layers(model: nn.Module, config: DiTConfig) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """What ``quantise`` replaces: the module that holds a linear layer, its name there, and itself."""
    for index in quantised_layers(config):
        for name in _QUANTISED:
            parent, _, leaf = f"layers.{index}.{name}".rpartition(".")
            holder, linear = model.get_submodule(parent), model.get_submodule(f"{parent}.{leaf}")
            if isinstance(linear, nn.Linear):
                yield holder, leaf, linear


def quantise(model: nn.Module, config: DiTConfig) -> int:
    """Replaces the linear layers of ``linear_layers`` in ``model``; returns how many bytes that frees.

    Raises:
        ValueError: see ``quantised_layers``.
    """
    freed = 0
    for holder, name, linear in list(linear_layers(model, config)):
        quantised = FP8Linear(linear)
        freed += linear.weight.nbytes - quantised.weight.nbytes - quantised.scale.nbytes
        setattr(holder, name, quantised)
    return freed
