"""The whole pipeline as one loop: Algorithm 3 of the paper, and the oracle of the distributed one.

Every service performs a part of this loop; what they make together must equal it bit for bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.block import Primed, Sink
from live_avatar.streaming.decoder import DecoderSession, FrameDecoder, Frames
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.rollout import StageChain, go_on
from live_avatar.streaming.sinks import SinkSchedule


@dataclass(frozen=True)
class Generated:
    """One block of output."""

    block: int
    latent: Tensor
    """[16, F, h, w] clean"""
    frames: tuple[Frames, ...]


def generate(
    stages: Sequence[Denoiser],
    decoder: FrameDecoder,
    *,
    sink: Sink,
    warmup: Tensor,
    text: Tensor,
    audio: Iterable[AudioTokens],
    seed: int,
    primed: Primed | None = None,
) -> Iterator[Generated]:
    """Generates one session, block after block.

    A session that was interrupted goes on from its last finished blocks.  It differs from one that never was: what
    stages and decoder remembered is made anew from ``primed``, and is near to what it was, not equal.

    Args:
        stages: all denoising stages, in order; any split of the steps gives the same bits.
        decoder: pictures from latents.
        sink: version 0, from the portrait.
        warmup: [16, n, h, w] latents of the past that the decoder is warmed with.
        text: [L, text_dim] states of the prompt.
        audio: tokens of each block that is generated.
        seed: of the session's random numbers.
        primed: what the session goes on from; None: it begins.
    """
    _, _, height, width = sink.reference.shape
    geometry = Geometry(config=stages[0].model.config, height=height, width=width)
    first_block, next_block = (primed.first_block, primed.next_block) if primed else (0, 0)
    chain = StageChain(stages, seed, geometry, first_block)
    pictures = decoder.open(first_block)
    decoder.warm(pictures, warmup)
    schedule = SinkSchedule(decoder.rules)
    chain.condition(schedule.first(sink, text))
    if primed is not None:
        _prime(chain, decoder, pictures, primed)
    for index, latent in enumerate(go_on(chain, schedule, sink, audio, next_block), next_block):
        yield Generated(index, latent, tuple(decoder.decode(pictures, index, latent)))


def _prime(chain: StageChain, decoder: FrameDecoder, pictures: DecoderSession, primed: Primed) -> None:
    """Fills the memory of all stages and of the decoder."""
    for change in primed.changes:
        chain.condition(change)
    for block in primed.blocks:
        assert block.latent is not None, f"block {block.index} is not finished"
        chain.prime(block)
        decoder.prime(pictures, block.index, block.latent)


def warmup_latents(sink: Sink, decoder: FrameDecoder) -> Tensor:
    """Latents [16, n, h, w] to warm the decoder with: the sink's motion, or the reference held still."""
    if sink.motion is not None:
        return sink.motion
    return torch.cat([sink.reference] * decoder.rules.warmup_latents, dim=1)
