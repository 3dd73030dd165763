"""The whole pipeline as one loop: Algorithm 3 of the paper, and the oracle of the distributed one.

Every service performs a part of this loop; what they make together must equal it bit for bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.block import Sink
from live_avatar.streaming.decoder import FrameDecoder, Frames
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.rollout import StageChain, roll_out
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
) -> Iterator[Generated]:
    """Generates one session, block after block.

    Args:
        stages: all denoising stages, in order; any split of the steps gives the same bits.
        decoder: pictures from latents.
        sink: version 0, from the portrait.
        warmup: [16, n, h, w] latents of the past that the decoder is warmed with.
        text: [L, text_dim] states of the prompt.
        audio: tokens of each block.
        seed: of the session's random numbers.
    """
    _, _, height, width = sink.reference.shape
    chain = StageChain(stages, seed, Geometry(config=stages[0].model.config, height=height, width=width))
    pictures = decoder.open()
    decoder.warm(pictures, warmup)
    schedule = SinkSchedule(decoder.rules)
    for index, latent in enumerate(roll_out(chain, schedule, schedule.first(sink, text), audio)):
        yield Generated(index, latent, tuple(decoder.decode(pictures, index, latent)))


def warmup_latents(sink: Sink, decoder: FrameDecoder) -> Tensor:
    """Latents [16, n, h, w] to warm the decoder with: the sink's motion, or the reference held still."""
    if sink.motion is not None:
        return sink.motion
    return torch.cat([sink.reference] * decoder.rules.warmup_latents, dim=1)
