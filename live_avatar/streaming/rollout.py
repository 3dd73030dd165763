"""The roll-out: block after block from noise to clean, with the sink that holds for each.

Algorithm 3 of the paper without the decoder.  ``local.generate`` decodes what it yields, the fp8 test compares two of
it, and the trainer learns from it.

Letters: F latents of a block, h and w latent pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.block import Block, Conditioning, Sink
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.sinks import SinkSchedule


class Pipeline(Protocol):
    """What takes the blocks of one session from noise to clean."""

    def condition(self, conditioning: Conditioning) -> None:
        """Takes note of what holds from a later block on."""
        ...

    def denoise(self, block: Block) -> Tensor:
        """The clean latents [16, F, h, w] of ``block``, which comes without any."""
        ...


class StageChain:
    """Denoising stages one after the other, with the memory of one session on each."""

    def __init__(self, stages: Sequence[Denoiser], seed: int, geometry: Geometry, first_block: int = 0) -> None:
        self.stages = stages
        self.sessions = [stage.open(seed, geometry, first_block) for stage in stages]

    def condition(self, conditioning: Conditioning) -> None:
        """See ``Pipeline``."""
        for stage, session in zip(self.stages, self.sessions, strict=True):
            stage.condition(session, conditioning)

    def denoise(self, block: Block) -> Tensor:
        """See ``Pipeline``."""
        for stage, session in zip(self.stages, self.sessions, strict=True):
            block = stage.denoise(session, block)
        assert block.latent is not None
        return block.latent

    def prime(self, block: Block) -> None:
        """Makes a finished block history on all stages."""
        for stage, session in zip(self.stages, self.sessions, strict=True):
            stage.prime(session, block)


def roll_out(
    pipeline: Pipeline, schedule: SinkSchedule, first: Conditioning, audio: Iterable[AudioTokens]
) -> Iterator[Tensor]:
    """Yields the clean latents [16, F, h, w] of block after block, each before the next one's audio is asked for.

    Args:
        pipeline: a new session of it.
        schedule: when the sink changes.
        first: sink and text from block 0 on.
        audio: tokens of each block.
    """
    assert first.sink is not None
    pipeline.condition(first)
    yield from go_on(pipeline, schedule, first.sink, audio)


def go_on(
    pipeline: Pipeline, schedule: SinkSchedule, sink: Sink, audio: Iterable[AudioTokens], next_block: int = 0
) -> Iterator[Tensor]:
    """``roll_out`` of a session that has been conditioned, with ``sink`` of version 0, from ``next_block`` on."""
    for index, tokens in enumerate(audio, next_block):
        latent = pipeline.denoise(Block(index=index, audio=tokens))
        change = schedule.after_block(index, latent, sink)
        if change is not None:
            pipeline.condition(change)
        yield latent
