"""How unlike its training a portrait is: what the weights know of the portraits they were trained on.

Three things are measured in the autoencoder: how wrongly it brings the portrait back, how far the portrait's latents
lie from those of the training portraits, and whether they vary within the picture as much as theirs do.  The latents
of training portraits are described by their mean and the few directions in which they differ from each other; the
distance is what these directions do not explain.  Latents are averaged over a coarse grid first, so that pictures of
any size compare.

Letters: C latent channels, H and W pixels, G side of the grid, D = C G G, K directions, P portraits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from live_avatar.config import VAEConfig
from live_avatar.model.vae import VAE
from live_avatar.model.weight_files import Shape
from live_avatar.novelty import Novelty

GRID = 4
FINE_GRID = 8
"""Side of the grid over which contrast is measured: that of the smallest picture."""
MOST_DIRECTIONS = 64
TOLERANCE = 1.5
"""How many times as unlike as the most unlike held-out training portrait still counts as their kind."""
STORED = torch.float16
_SMALLEST_CONTRAST = 1e-2
_SMALLEST_SCALE = 1e-3


class Traits(NamedTuple):
    """What is measured of one portrait; float32, on the CPU."""

    latents: Tensor
    """[D], averaged over the grid."""
    contrast: Tensor
    """[C], logarithm of how much each channel varies within the picture."""
    error: Tensor
    """[], root mean square of what the autoencoder changes, in pictures of [-1, 1]."""


def shapes(config: VAEConfig) -> dict[str, Shape]:
    """Every key of the file set with its shape."""
    channels = config.latent_channels
    size = channels * GRID**2
    return {
        "mean": (size,),
        "scale": (size,),
        "directions": (_directions(size), size),
        "contrast_mean": (channels,),
        "contrast_scale": (channels,),
        "largest": (3,),
    }


def _directions(size: int) -> int:
    """K for D: most dimensions must be left unexplained."""
    return min(MOST_DIRECTIONS, size // 4)


@torch.inference_mode()
def traits_of(vae: VAE, pixels: Tensor) -> Traits:
    """Measures a portrait [3, H, W] in [-1, 1]."""
    pixels = pixels.to(vae.from_latents.weight.device)
    encoded = vae.encode(pixels[None, :, None])
    error = vae.decode(encoded)[0, :, 0].float().clamp(-1, 1) - pixels
    latents = encoded[0, :, 0].float()
    contrast = F.adaptive_avg_pool2d(latents, FINE_GRID).flatten(1).std(dim=1).clamp(min=_SMALLEST_CONTRAST).log()
    pooled = F.adaptive_avg_pool2d(latents, GRID).flatten()
    return Traits(pooled.cpu(), contrast.cpu(), error.square().mean().sqrt().cpu())


@dataclass(frozen=True)
class TrainingPortraits:
    """What the portraits of a training are like."""

    mean: Tensor
    """[D]."""
    scale: Tensor
    """[D], their standard deviation."""
    directions: Tensor
    """[K, D], orthonormal: in which they differ most, each number in units of ``scale``."""
    contrast_mean: Tensor
    """[C]."""
    contrast_scale: Tensor
    """[C], its standard deviation."""
    largest: Tensor
    """[3], each of what ``measure`` returns: the largest of the portraits that were held out."""
    trained_on: str = ""
    """What they are, in words."""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], trained_on: str = "") -> "TrainingPortraits":
        """From what ``tensors`` gave, in any precision."""
        return cls(**{key: tensor.float().clone() for key, tensor in tensors.items()}, trained_on=trained_on)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored; half precision is enough."""
        keys = ("mean", "scale", "directions", "contrast_mean", "contrast_scale", "largest")
        return {key: getattr(self, key).to(STORED) for key in keys}

    def novelty(self, vae: VAE, pixels: Tensor) -> Novelty:
        """Measures a portrait [3, H, W] in [-1, 1] with the autoencoder of the same weights."""
        measured = (self.measure(traits_of(vae, pixels)) / self.largest).max().item()
        return Novelty(measured=measured, threshold=TOLERANCE, trained_on=self.trained_on)

    def measure(self, traits: Traits) -> Tensor:
        """[3]: distance and difference of contrast from the training portraits, and error of the autoencoder."""
        offset = (traits.latents - self.mean) / self.scale
        unexplained = offset - (self.directions @ offset) @ self.directions
        contrast = (traits.contrast - self.contrast_mean) / self.contrast_scale
        return torch.stack([unexplained.square().mean().sqrt(), contrast.square().mean().sqrt(), traits.error])


def describe(known: Sequence[Traits], held_out: Sequence[Traits], trained_on: str) -> TrainingPortraits:
    """What portraits are like, from ``known`` ones; the limits from others of the same kind.

    Raises:
        ValueError: there are too few of them, or none is held out.
    """
    if len(known) <= MOST_DIRECTIONS or not held_out:
        raise ValueError(f"{len(known)} portraits and {len(held_out)} held out: {MOST_DIRECTIONS + 1} and 1 are needed")
    latents, contrasts, _ = (torch.stack(column) for column in zip(*known, strict=True))  # [P, D], [P, C]
    mean, scale = latents.mean(dim=0), latents.std(dim=0).clamp(min=_SMALLEST_SCALE)
    _, _, directions = torch.linalg.svd((latents - mean) / scale, full_matrices=False)
    drafted = {
        "mean": mean,
        "scale": scale,
        "directions": directions[: _directions(len(mean))],
        "contrast_mean": contrasts.mean(dim=0),
        "contrast_scale": contrasts.std(dim=0).clamp(min=_SMALLEST_SCALE),
        "largest": torch.ones(3),
    }
    stored = {key: tensor.to(STORED) for key, tensor in drafted.items()}  # the limits are those of what is stored
    rounded = TrainingPortraits.from_tensors(stored)
    largest = torch.stack([rounded.measure(traits) for traits in held_out]).amax(dim=0)
    return TrainingPortraits.from_tensors(stored | {"largest": largest}, trained_on)
