"""Flow matching on real clips: noise levels, noised latents, the loss, and the bidirectional phase (spec 10.2).

A noisy latent is ``(1 - level) * clean + level * noise`` and the network predicts ``noise - clean``.  The causal phase
(``diffusion_forcing``) uses the same maths with another level per block.

Letters: B clips, F latents, N blocks.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from live_avatar.config import StreamConfig
from live_avatar.streaming.schedule import TIMESTEP_SCALE, inference_schedule, training_sigmas
from live_avatar.trainer.network import Batch, SpeechToVideo, bidirectional_velocity
from live_avatar.trainer.presets import FlowMatchingConfig
from live_avatar.trainer.random_streams import generator, normal


def noised(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Latents between ``clean`` and ``noise`` [B, 16, F, h, w] at ``level``, which broadcasts against them."""
    return (1 - level) * clean + level * noise


def noise_like(clean: Tensor, seed: int, step: int, items: range) -> Tensor:
    """Noise of the shape of ``clean``; that of each clip depends on its place ``items`` in the whole step alone."""
    drawn = [normal(generator(seed, "noise", step, item), *clean.shape[1:]) for item in items]
    return torch.stack(drawn).to(clean)


def draw_level(config: FlowMatchingConfig, rules: StreamConfig, random: np.random.Generator) -> float:
    """A noise level in (0, 1]: one that serving uses, or one of the training distribution."""
    if random.random() < config.inference_levels:
        return float(random.choice(inference_schedule(rules.steps).sigmas))
    if config.levels == "logit_normal":
        return float(1 / (1 + np.exp(-(config.level_mean + config.level_spread * random.standard_normal()))))
    return float(random.choice(training_sigmas(config.level_shift).numpy()))


@cache
def _level_weights(shift: float) -> tuple[float, float]:
    """The least weight and the mean of the others above it, over the training levels."""
    raw = _raw_weight(training_sigmas(shift))
    least = raw.min()
    return float(least), float((raw - least).mean())


def _raw_weight(level: Tensor) -> Tensor:
    weight: Tensor = torch.exp(-2 * ((TIMESTEP_SCALE * level - 500) / 1000).square())
    return weight


def level_weight(level: Tensor, config: FlowMatchingConfig) -> Tensor:
    """How much an error at ``level`` counts: 1 on average over ``shifted_uniform``, 1 everywhere over the other."""
    if config.levels == "logit_normal":
        return torch.ones_like(level)
    least, mean = _level_weights(config.level_shift)
    weight: Tensor = (_raw_weight(level) - least).clamp(min=0) / mean
    return weight


def velocity_loss(predicted: Tensor, target: Tensor, weight: Tensor, level_weights: Tensor) -> Tensor:
    """Mean squared error of velocities [B, 16, F, h, w], float32.

    Args:
        predicted: of the network.
        target: noise - clean.
        weight: [B, h, w] of each latent pixel.
        level_weights: [B, R] of each run of F / R latents.
    """
    error = (predicted.float() - target.float()).square() * weight[:, None, None]
    per_run = error.unflatten(2, (level_weights.shape[1], -1)).mean(dim=(1, 3, 4, 5))
    loss: Tensor = (per_run * level_weights).mean()
    return loss


def bidirectional_loss(
    network: SpeechToVideo, batch: Batch, config: FlowMatchingConfig, step: int, items: range
) -> Tensor:
    """The loss of whole clips that see all of themselves, at one noise level each."""
    rules = config.system.stream
    drawn = [draw_level(config, rules, generator(config.seed, "level", step, item)) for item in items]
    level = torch.tensor(drawn, device=batch.latents.device)
    noise = noise_like(batch.latents, config.seed, step, items)
    noisy = noised(batch.latents, noise, level.view(-1, 1, 1, 1, 1))
    predicted = bidirectional_velocity(network, batch, noisy, level)
    weights = level_weight(level, config)[:, None]
    return velocity_loss(predicted, noise - batch.latents, batch.weight, weights)
