"""A distribution whose score is known: every latent pixel is a point of the plane, drawn from a few Gaussians.

Letters: K Gaussians, n points, B clips, F latents, h and w latent pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = 32
"""Lines through the plane on which distributions are compared."""


@dataclass(frozen=True)
class Mixture:
    """Round Gaussians in the plane."""

    centres: tuple[tuple[float, float], ...]
    spreads: tuple[float, ...]
    shares: tuple[float, ...]
    """How much of the whole each has; they sum to 1."""

    def velocity(self, noisy: Tensor, level: Tensor) -> Tensor:
        """The exact velocity: noise minus clean, both as expected given ``noisy`` [B, 2, F, h, w] at ``level`` [B]."""
        at = noisy.movedim(1, -1)[..., None, :]
        sigma = level.view(-1, 1, 1, 1, 1).to(noisy)
        centres, variances, shares = self._tables(noisy)
        spread = (1 - sigma) ** 2 * variances + sigma**2
        away = at - (1 - sigma[..., None]) * centres
        likely = shares.log() - spread.log() - away.square().sum(-1) / (2 * spread)
        clean = centres + ((1 - sigma) * variances / spread)[..., None] * away
        expected = (likely.softmax(-1)[..., None] * clean).sum(-2).movedim(-1, 1)
        return (noisy - expected) / level.view(-1, 1, 1, 1, 1).to(noisy)

    def clips(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """Clips [B, 2, F, h, w] of ``shape``."""
        random = torch.Generator().manual_seed(seed)
        count, _, *places = shape
        centres, variances, shares = self._tables(torch.empty(0))
        which = torch.multinomial(shares, count * math.prod(places), replacement=True, generator=random)
        drawn = torch.randn(len(which), 2, generator=random)
        points = centres[which] + variances[which].sqrt()[:, None] * drawn
        return points.view(count, *places, 2).movedim(-1, 1)

    def _tables(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centres [K, 2], variances [K] and shares [K]."""
        return like.new_tensor(self.centres), like.new_tensor(self.spreads).square(), like.new_tensor(self.shares)


def points_of(clips: Tensor) -> Tensor:
    """[n, 2] of clips [B, 2, F, h, w]."""
    return clips.movedim(1, -1).flatten(0, -2).float()


def sliced_wasserstein(some: Tensor, others: Tensor) -> float:
    """How far the points ``some`` must move on average to lie as ``others`` do, as many: root mean square over lines.

    In the unit of the points, so that it is linear in a shift; ``2`` sets of one distribution are not at 0 exactly.
    """
    angles = torch.arange(DIRECTIONS) * math.pi / DIRECTIONS
    lines = torch.stack([angles.cos(), angles.sin()])
    apart = (some @ lines).sort(dim=0).values - (others @ lines).sort(dim=0).values
    return float(apart.square().mean().sqrt())
