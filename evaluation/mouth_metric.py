"""How far a synthetic person's mouth is open, read from the picture alone.

A small network fitted on true frames, whose openness is known; what it reads from generated frames is then compared
with the truth of the sound.  Knows nothing of models, clips or services.

Letters: T frames, H and W pixels.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from live_avatar.trainer.synthetic.pool import HELD_OUT, TRAINING, stills

Track = npt.NDArray[np.float32]

SIDE = 64
"""Pixels of the picture that is read; others are brought to it."""
ROWS, COLUMNS = slice(28, 64), slice(10, 54)
"""Where mouths are."""
PEOPLE, POSES = 300, 12
STEPS, BATCH, LEARNING_RATE = 700, 64, 2e-3
NOISE = 0.03
"""Deviation added to the pictures in -1..1, so that faint traces do not count."""


class OpennessReader(nn.Module):
    """Pictures to openness."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 48)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        rows, columns = (-(-(part.stop - part.start) // 8) for part in (ROWS, COLUMNS))
        self.hidden = nn.Linear(widths[-1] * rows * columns, 64)
        self.out = nn.Linear(64, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """[T, 3, 64, 64] in -1..1 to [T]."""
        x = pictures[:, :, ROWS, COLUMNS]
        for convolution in self.convolutions:
            x = F.gelu(convolution(x))
        openness: Tensor = self.out(F.gelu(self.hidden(x.flatten(1))))
        return openness[:, 0]

    @torch.no_grad()
    def read(self, frames: npt.NDArray[np.uint8]) -> Track:
        """The openness [T] that ``frames`` [T, H, W, 3] show, 0 to about 1."""
        openness: Track = self(_pictures(frames)).numpy()
        return openness


def _pictures(frames: npt.NDArray[np.uint8]) -> Tensor:
    pictures = torch.from_numpy(frames).movedim(-1, 1).float() / 127.5 - 1
    return F.interpolate(pictures, (SIDE, SIDE), mode="area") if pictures.shape[-1] != SIDE else pictures


def fit(seed: int = 0, people: int = PEOPLE, steps: int = STEPS) -> OpennessReader:
    """A reader fitted on true frames of people of the training split; the same one for the same ``seed``."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    pool = stills(people, POSES, SIDE, split=TRAINING, seed=10_000 + seed)
    pictures, openness = _pictures(pool.frames[:, 0]), torch.from_numpy(pool.openness[:, 0])
    reader = OpennessReader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE)
    for step in range(steps):
        chosen = torch.randint(len(pictures), (BATCH,), generator=rng)
        noisy = pictures[chosen] + NOISE * torch.randn(BATCH, 3, SIDE, SIDE, generator=rng)
        loss = F.mse_loss(reader(noisy), openness[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.step()
    return reader.eval()


def held_out_correlation(reader: OpennessReader, people: int = 40) -> float:
    """Between what ``reader`` reads from true frames of people it has never met and the truth."""
    pool = stills(people, POSES, SIDE, split=HELD_OUT, seed=10_000)
    return correlation(reader.read(pool.frames[:, 0]), pool.openness[:, 0])


def correlation(first: Track, second: Track) -> float:
    """Pearson's r of two tracks [T]; 0 where one of them does not move."""
    if first.std() < 1e-6 or second.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


@dataclass(frozen=True)
class Sync:
    """How a mouth follows the truth."""

    correlation: float
    """At the best lag."""
    lag: int
    """Frames the mouth is late at its best."""
    amplitude: float
    """Deviation of what was read over that of the truth."""


def sync(read: Track, truth: Track, furthest: int = 5) -> Sync:
    """Compares the openness that was ``read`` with the ``truth``, both [T], at lags up to ``furthest`` frames.

    Raises:
        ValueError: the tracks are of unequal length, or too short for the lags.
    """
    if read.shape != truth.shape or read.size <= 2 * furthest:
        raise ValueError(f"tracks of {read.size} and {truth.size} frames cannot be compared at lags up to {furthest}")
    at_lags = {lag: correlation(*_shifted(read, truth, lag)) for lag in range(-furthest, furthest + 1)}
    best = max(at_lags, key=lambda lag: (at_lags[lag], -abs(lag)))
    return Sync(at_lags[best], best, float(read.std() / max(float(truth.std()), 1e-6)))


def _shifted(read: Track, truth: Track, lag: int) -> tuple[Track, Track]:
    """The parts of both tracks that face each other when ``read`` is ``lag`` frames late."""
    if lag >= 0:
        return read[lag:], truth[: truth.size - lag]
    return read[:lag], truth[-lag:]
