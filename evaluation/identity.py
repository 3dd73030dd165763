"""Whose face is this?  A small network that brings pictures of one person together and those of others apart.

Fitted on true frames of people of the training split, blurred and noisy by turns, so that what an autoencoder does to
a picture does not decide.  Knows nothing of models, clips or services.

Letters: T frames, P people, H and W pixels, E width of an embedding.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.avatar import as_input
from live_avatar.trainer.synthetic.pool import TRAINING, stills

SIDE = 64
PEOPLE, POSES = 400, 8
STEPS, BATCH, LEARNING_RATE = 240, 40, 2e-3
TEMPERATURE = 0.1
NOISE = 0.06
_WIDTHS = (3, 16, 32, 64, 64)
_EMBEDDING = 48


class FaceReader(nn.Module):
    """Pictures to embeddings of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(_WIDTHS)
        )
        self.out = nn.Linear(_WIDTHS[-1] * (SIDE // 16) ** 2, _EMBEDDING)

    def forward(self, pictures: Tensor) -> Tensor:
        """[T, 3, 64, 64] in -1..1 to [T, E]."""
        x = pictures
        for convolution in self.convolutions:
            x = F.gelu(convolution(x))
        return F.normalize(self.out(x.flatten(1)), dim=1)

    @torch.no_grad()
    def read(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """The embedding [E] of the person that ``frames`` [T, H, W, 3] show."""
        pictures = as_input(frames)
        if pictures.shape[-1] != SIDE:
            pictures = F.interpolate(pictures, (SIDE, SIDE), mode="area")
        return F.normalize(self(pictures).mean(dim=0), dim=0)


def fit(seed: int = 0, people: int = PEOPLE, steps: int = STEPS) -> FaceReader:
    """A reader fitted on true frames of people of the training split; the same one for the same ``seed``."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    pool = stills(people, POSES, SIDE, split=TRAINING, seed=20_000 + seed)
    pictures = as_input(pool.frames[:, 0]).unflatten(0, (people, POSES))
    reader = FaceReader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE)
    for step in range(steps):
        chosen = torch.randperm(people, generator=rng)[:BATCH]
        poses = torch.randint(POSES, (2, len(chosen)), generator=rng)
        first, second = (reader(_spoilt(pictures[chosen, pose], rng)) for pose in poses)
        likeness = first @ second.T / TEMPERATURE
        right = torch.arange(len(chosen))
        loss = F.cross_entropy(likeness, right) + F.cross_entropy(likeness.T, right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.step()
    return reader.eval()


def _spoilt(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """``pictures`` [P, 3, H, W] with noise, half of them blurred."""
    small = F.interpolate(pictures, scale_factor=0.5, mode="area")
    blurred = F.interpolate(small, pictures.shape[-2:], mode="bilinear", align_corners=False)
    is_blurred = torch.rand(len(pictures), 1, 1, 1, generator=rng) < 0.5
    return torch.where(is_blurred, blurred, pictures) + NOISE * torch.randn(pictures.shape, generator=rng)


def nearest(embedding: Tensor, references: Tensor) -> int:
    """Index of the row of ``references`` [P, E] that is most like ``embedding`` [E]."""
    return int((references @ embedding).argmax())
