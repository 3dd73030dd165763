"""Measures how far a faster stage drifts from its reference over a long roll-out.

One forward says little: a stage attends to what it made before, so that errors may grow from block to block.  Both
sides start from the same noise, sink, prompt and audio, and then each lives with its own past.

Error is given as signal over error in decibels, for each block: 20 dB is an error of a tenth.  Beside it stands the
error of a third side that differs by rounding alone: the same model whose linear layers sum in another order.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from live_avatar.config import MOTION_LATENTS, Preset
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.block import Sink
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.rollout import StageChain, roll_out
from live_avatar.streaming.sinks import SinkSchedule

LEAST_WORST_DB = 20.0
"""Of the worst block, for a stage to pass."""


@dataclass(frozen=True)
class Drift:
    """Signal over error of every block, in decibels."""

    blocks_db: tuple[float, ...]

    @property
    def median_db(self) -> float:
        """Of all blocks."""
        return statistics.median(self.blocks_db)

    @property
    def worst_db(self) -> float:
        """Of the block that differs most."""
        return min(self.blocks_db)

    @property
    def growth_db(self) -> float:
        """By how much the median of the last quarter is worse than that of the first."""
        quarter = max(1, len(self.blocks_db) // 4)
        return statistics.median(self.blocks_db[:quarter]) - statistics.median(self.blocks_db[-quarter:])


def drift(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> Drift:
    """What lies between two roll-outs of the same blocks."""
    return Drift(tuple(signal_over_error_db(one, other) for one, other in zip(actual, expected, strict=True)))


def signal_over_error_db(actual: Tensor, expected: Tensor) -> float:
    """Power of ``expected`` over that of the difference; infinite where there is none, of the same shape."""
    error = float((actual.double() - expected.double()).square().sum())
    return math.inf if error == 0 else 10 * math.log10(float(expected.double().square().sum()) / error)


def synthetic_session(
    denoiser: Denoiser, preset: Preset, size: tuple[int, int], blocks: int, seed: int = 0
) -> Iterator[Tensor]:
    """Clean latents [16, F, h, w] of ``blocks`` blocks of a made-up session.

    Args:
        denoiser: with all steps.
        preset: the system.
        size: height and width in latent pixels.
        blocks: how many.
        seed: of everything that is drawn.
    """
    generator, config = torch.Generator().manual_seed(seed), preset.dit
    geometry, latents = Geometry(config=config, height=size[0], width=size[1]), preset.stream.latents_per_block

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    motion = random(config.latent_channels, MOTION_LATENTS, *size) if config.use_motion else None
    sink = Sink(version=0, reference=random(config.latent_channels, 1, *size), motion=motion)
    schedule = SinkSchedule(preset.stream)
    first = schedule.first(sink, random(config.text_len, config.text_dim))
    audio = (
        AudioTokens(random(1, 1, latents, config.audio_tokens + 1, config.dim), random(1, 1, latents, config.dim))
        for _ in range(blocks)
    )
    for latent in roll_out(StageChain([denoiser], seed, geometry), schedule, first, audio):
        yield latent.clone()


class _SplitLinear(nn.Module):
    """A linear layer that sums over its inputs in two halves."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., N]."""
        half = x.shape[-1] // 2
        front = F.linear(x[..., :half], self.weight[:, :half])
        return front + F.linear(x[..., half:], self.weight[:, half:], self.bias)


def reorder_reduction(model: nn.Module) -> None:
    """Makes the linear layers of a model's layers sum in another order; just as right, but for rounding."""
    for layer in model.get_submodule("layers").modules():
        for name, child in list(layer.named_children()):
            if type(child) is nn.Linear:
                setattr(layer, name, _SplitLinear(child))
