"""Random numbers of a session: noise of a block, and the offset of its sink reference.

Counter-based (Philox): every number is a function of (session seed, block, step) alone, so a replay, another
partition of the steps, or a retried block draws the same bits.  Drawn in float32 on the CPU, so that every
deployment draws the same.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_NOISE, _OFFSET = 0, 1
"""Domains of the counter, so that no two purposes share a number."""
REFERENCE_STAYS = (-(2**40), -(2**40))
"""Distances under which the reference stays where the prefill put it, however old the session: no Rolling RoPE."""


class Rng(Protocol):
    """Source of the stages' random numbers."""

    def noise(self, seed: int, block: int, shape: tuple[int, ...]) -> Tensor:
        """Standard normal float32 noise of ``shape`` for ``block``."""
        ...

    def reference_offset(self, seed: int, block: int, step: int) -> int:
        """How many frames ahead of ``block`` its sink reference stands at ``step`` (spec 1.8)."""
        ...


@dataclass(frozen=True)
class PhiloxRng:
    """Counter-based (Philox) generator of a live session."""

    offset_range: tuple[int, int]
    """Inclusive; equal bounds fix the offset."""

    def noise(self, seed: int, block: int, shape: tuple[int, ...]) -> Tensor:
        """See ``Rng``."""
        return torch.from_numpy(_generator(seed, _NOISE, block).standard_normal(shape, dtype=np.float32))

    def reference_offset(self, seed: int, block: int, step: int) -> int:
        """See ``Rng``."""
        low, high = self.offset_range
        return int(_generator(seed, _OFFSET, block, step).integers(low, high, endpoint=True))


@dataclass(frozen=True)
class RecordedRng:
    """Replays recorded random numbers; the seed is ignored."""

    recorded_noise: Tensor
    """[blocks, 16, F, h, w]"""
    recorded_offset: Tensor
    """[blocks, steps] integer"""

    def noise(self, seed: int, block: int, shape: tuple[int, ...]) -> Tensor:
        """See ``Rng``.

        Raises:
            ValueError: the recording has another shape, or ends before ``block``.
        """
        if block >= len(self.recorded_noise) or self.recorded_noise.shape[1:] != shape:
            raise ValueError(
                f"the recording holds noise {tuple(self.recorded_noise.shape)}, not block {block} of {shape}"
            )
        return self.recorded_noise[block].clone()

    def reference_offset(self, seed: int, block: int, step: int) -> int:
        """See ``Rng``."""
        return int(self.recorded_offset[block, step])


def _generator(seed: int, domain: int, block: int, step: int = 0) -> np.random.Generator:
    """A generator at the start of the counter range of (domain, block, step) under the session's key."""
    return np.random.Generator(np.random.Philox(key=seed % 2**64, counter=[0, step, block, domain]))
