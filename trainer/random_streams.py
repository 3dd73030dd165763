"""The random numbers of training: every one is a function of what it is for, of the step and of the sample alone.

So a run that goes on from a checkpoint, or on another number of processes, draws what it would have drawn anyway; no
state of a generator has to be kept.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Purpose = Literal["noise", "level", "place", "drop", "crop", "score", "order", "roll_out", "set"]
_DOMAINS: tuple[Purpose, ...] = ("noise", "level", "place", "drop", "crop", "score", "order", "roll_out", "set")


def generator(seed: int, purpose: Purpose, step: int, item: int = 0) -> np.random.Generator:
    """A generator for one purpose at one step; ``item`` is the sample's place among all of the step."""
    counter = [0, item, step, _DOMAINS.index(purpose)]
    return np.random.Generator(np.random.Philox(key=seed % 2**64, counter=counter))


def normal(random: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal float32 numbers of ``shape``, on the CPU."""
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
