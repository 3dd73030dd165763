"""Distribution matching: in which direction a video must change to look more like the teacher's (spec 10.3).

Two scores look at the same noisy video: that of the teacher (real) and one that follows the student (fake).  Their
difference is the gradient of the divergence between the two distributions (DMD).  Knows nothing of networks.

Letters: B clips, F latents.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from live_avatar.streaming.schedule import shifted_sigma
from live_avatar.trainer.flow_matching import noised

LEVELS = 1000


class Score(Protocol):
    """A network that knows the way from noisy to clean."""

    def __call__(self, noisy: Tensor, level: Tensor) -> Tensor:
        """The velocity (noise - clean) of ``noisy`` [B, 16, F, h, w] at ``level`` [B] in 0..1."""
        ...


def draw_score_level(random: np.random.Generator, shift: float, bounds: tuple[float, float]) -> float:
    """The noise level of one comparison: uniform, shifted, then kept within ``bounds``."""
    level = shifted_sigma(torch.tensor(random.integers(LEVELS) / LEVELS), shift)
    return float(level.clamp(*bounds))


def clean_estimate(score: Score, noisy: Tensor, level: Tensor) -> Tensor:
    """The clean video that ``score`` sees in ``noisy``."""
    return noisy - _wide(level) * score(noisy, level)


@torch.no_grad()
def dmd_gradient(video: Tensor, noise: Tensor, level: Tensor, real: Score, fake: Score) -> Tensor:
    """The direction to move ``video`` against, of its shape, scaled to its distance from what the teacher sees."""
    noisy = noised(video, noise, _wide(level))
    real_clean, fake_clean = clean_estimate(real, noisy, level), clean_estimate(fake, noisy, level)
    scale = (video - real_clean).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return torch.nan_to_num((fake_clean - real_clean) / scale)


def dmd_loss(video: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose derivative by ``video`` is ``gradient`` over the number of its values; taken in float64."""
    target = (video.double() - gradient.double()).detach()
    return 0.5 * torch.nn.functional.mse_loss(video.double(), target)


def guided(score: Score, unconditional: Score, guidance: float) -> Score:
    """``cond + guidance * (cond - uncond)``; guidance 0 is the plain score."""

    def apply(noisy: Tensor, level: Tensor) -> Tensor:
        conditional = score(noisy, level)
        return conditional + guidance * (conditional - unconditional(noisy, level)) if guidance else conditional

    return apply


def fake_loss(video: Tensor, noise: Tensor, level: Tensor, fake: Score) -> Tensor:
    """Flow matching of the fake score on the student's ``video``, so that it knows where the student is."""
    video = video.detach()
    predicted = fake(noised(video, noise, _wide(level)), level)
    return (predicted.float() - (noise - video).float()).square().mean()


def _wide(level: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1, 1]."""
    return level.view(-1, 1, 1, 1, 1)
