"""A whole pipeline of networks small enough for tests, and what a session of it is fed.

Letters: F latents of a block, L text rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from live_avatar.config import MOTION_LATENTS, DiTConfig, StreamConfig, VAEConfig
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.dit import CausalDiT
from live_avatar.model.vae import VAE
from live_avatar.streaming.block import Block, Conditioning, Sink
from live_avatar.streaming.denoiser import Denoiser, StageSession
from live_avatar.streaming.rng import PhiloxRng, Rng
from live_avatar.streaming.schedule import inference_schedule
from tests.model.random_dit import CONFIG, random_audio, random_dit, randomise, transformer_layer
from tests.streaming.partitions import split_steps

RULES = StreamConfig(window_blocks=2, sink_switch_block=2, latents_per_block=3)
HEIGHT, WIDTH = 8, 10
GEOMETRY = Geometry(config=CONFIG, height=HEIGHT, width=WIDTH)
SEED = 11
VAE_CONFIG = VAEConfig(dim=4, latent_channels=4, mean=(0.5, -0.25, 0.0, 0.1), std=(2.0, 0.5, 1.5, 1.0))
DRAWS = PhiloxRng(RULES.reference_distance)


def stages(model: CausalDiT, count: int, steps: int = RULES.steps, rng: Rng = DRAWS) -> list[Denoiser]:
    """``count`` stages that share ``steps`` steps."""
    schedule = inference_schedule(steps)
    return [Denoiser(model, RULES, schedule, owned, rng) for owned in split_steps(steps, count)]


def random_vae() -> VAE:
    """An autoencoder with random weights."""
    vae = VAE(VAE_CONFIG)
    randomise(vae)
    return vae


def sink(seed: int = 0, config: DiTConfig = CONFIG, *, motion: bool = True) -> Sink:
    """A sink of version 0."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(config.latent_channels, 1 + MOTION_LATENTS, HEIGHT, WIDTH, generator=generator)
    return Sink(version=0, reference=latents[:, :1], motion=latents[:, 1:] if motion else None)


def text(seed: int = 0) -> Tensor:
    """[L, text_dim] states of a prompt."""
    return torch.randn(3 + seed % 2, CONFIG.text_dim, generator=torch.Generator().manual_seed(seed))


def first_conditioning(seed: int = 0) -> Conditioning:
    """What every session starts with."""
    return Conditioning(from_block=0, sink=sink(seed), text=text(seed))


def block(index: int, latent: Tensor | None = None) -> Block:
    """The block as the audio encoder sends it; its tokens depend on the index alone."""
    return Block(index=index, audio=random_audio(CONFIG, RULES.latents_per_block, seed=index), latent=latent)


class Chain:
    """Stages one after the other, with a session on each."""

    def __init__(self, denoisers: Sequence[Denoiser], seed: int = SEED) -> None:
        self.denoisers = denoisers
        self.sessions: list[StageSession] = [denoiser.open(seed, GEOMETRY) for denoiser in denoisers]

    def condition(self, conditioning: Conditioning) -> None:
        """Tells every stage."""
        for denoiser, session in zip(self.denoisers, self.sessions, strict=True):
            denoiser.condition(session, conditioning)

    def run(self, blocks: range) -> list[Tensor]:
        """Clean latents of ``blocks``."""
        return [self.block(index) for index in blocks]

    def block(self, index: int) -> Tensor:
        """Clean latent of one block."""
        walking = block(index)
        for denoiser, session in zip(self.denoisers, self.sessions, strict=True):
            walking = denoiser.denoise(session, walking)
        assert walking.latent is not None
        return walking.latent


def started(count: int = 1, seed: int = SEED, model: CausalDiT | None = None, steps: int = RULES.steps) -> Chain:
    """A chain of ``count`` stages with its first conditioning."""
    chain = Chain(stages(model or random_dit(), count, steps), seed)
    chain.condition(first_conditioning())
    return chain


@contextmanager
def failing(model: CausalDiT, layer: int, calls: int) -> Iterator[None]:
    """While it lasts, ``layer`` of the model fails when it has been called ``calls`` times."""
    done = 0

    def fail(*_: object) -> None:
        nonlocal done
        if done == calls:
            raise ConnectionError("the device is gone")
        done += 1

    hook = transformer_layer(model, layer).register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()
