"""Diffusion forcing: every block at a noise level of its own, seen as a stream would see it (spec 10.2).

Letters: B clips, F latents, N blocks.
"""

import numpy as np
import torch
from torch import Tensor

from live_avatar.config import StreamConfig
from live_avatar.trainer.flow_matching import draw_level, level_weight, noise_like, noised, velocity_loss
from live_avatar.trainer.network import Batch, Place, SpeechToVideo, causal_velocity
from live_avatar.trainer.presets import FlowMatchingConfig
from live_avatar.trainer.random_streams import generator


def causal_loss(network: SpeechToVideo, batch: Batch, config: FlowMatchingConfig, step: int, items: range) -> Tensor:
    """The loss of clips under the block-causal mask."""
    rules = config.system.stream
    levels = torch.stack([draw_levels(config, step, item) for item in items]).to(batch.latents.device)
    noise = noise_like(batch.latents, config.seed, step, items)
    per_latent = levels.repeat_interleave(rules.latents_per_block, dim=1)[:, None, :, None, None]
    noisy = noised(batch.latents, noise, per_latent)
    place = draw_place(generator(config.seed, "place", step), rules, config.blocks, config)
    predicted = causal_velocity(network, batch, noisy, levels, place, rules.window_blocks)
    weights = level_weight(levels, config)
    return velocity_loss(predicted, noise - batch.latents, batch.weight, weights)


def draw_levels(config: FlowMatchingConfig, step: int, item: int) -> Tensor:
    """[N] noise levels of one clip's blocks: one each, or one for all (as in serving) in a share of the clips."""
    random = generator(config.seed, "level", step, item)
    same = random.random() < config.shared_level
    drawn = [draw_level(config, config.system.stream, random) for _ in range(1 if same else config.blocks)]
    return torch.tensor(drawn).expand(config.blocks)


def draw_place(random: np.random.Generator, rules: StreamConfig, blocks: int, config: FlowMatchingConfig) -> Place:
    """Where clips of ``blocks`` blocks stand: at the start of a session, or at a block up to ``furthest_frame`` later.

    The whole step shares it: positions are those of a forward, not of a clip.
    """
    at_start = random.random() < config.at_start
    block = 0 if at_start else int(random.integers(0, config.furthest_frame // rules.latents_per_block, endpoint=True))
    low, high = rules.reference_distance
    distances = tuple(int(distance) for distance in random.integers(low, high, size=blocks, endpoint=True))
    return Place(block * rules.latents_per_block, distances)
