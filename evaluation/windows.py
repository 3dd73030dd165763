"""The seconds of a session that are looked at, and a decoder that decodes no others.

Letters: F latents of a block, h and w latent pixels, N samples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from live_avatar.config import SAMPLE_RATE_HZ, Preset, StreamConfig
from live_avatar.model.vae import VAE
from live_avatar.streaming.decoder import DecoderSession, FrameDecoder, Frames
from live_avatar.streaming.resample import Samples
from live_avatar.trainer.synthetic.clips import SyntheticClip, speech

MEMORY_BLOCKS = 13
"""Blocks after which the decoder's caches hold nothing older: 38 latents pass through its convolutions."""
FILLER_BLOCKS = 105
"""Of the speech between spans, which is said again and again."""
_FILLER = 7


@dataclass(frozen=True)
class TimeWindow:
    """Some seconds of a session, as whole blocks."""

    start_s: int
    seconds: float
    first_block: int
    blocks: int

    @property
    def end_block(self) -> int:
        """The block after the last."""
        return self.first_block + self.blocks

    def __str__(self) -> str:
        return f"{self.start_s}-{self.start_s + self.seconds:g} s"


def spans_of(starts_s: Sequence[int], seconds: float, preset: Preset) -> tuple[TimeWindow, ...]:
    """Spans of ``seconds`` from the block at each of ``starts_s`` on.

    Raises:
        ValueError: none, not in the order of time, or they overlap.
    """
    block_s = preset.samples_per_block / SAMPLE_RATE_HZ
    blocks = math.ceil(seconds / block_s - 1e-9)
    spans = tuple(TimeWindow(start, seconds, round(start / block_s), blocks) for start in starts_s)
    if not spans or blocks < 1 or spans[0].first_block < 0:
        raise ValueError(f"starts={list(starts_s)}, seconds={seconds}: there is nothing to look at")
    for before, after in pairwise(spans):
        if after.first_block < before.end_block:
            raise ValueError(f"the spans {before} and {after} overlap or are not in the order of time")
    return spans


def session_speech(clip: SyntheticClip, spans: Sequence[TimeWindow], preset: Preset) -> Iterator[Samples]:
    """Audio of a session, block by block [N]: the clip's sentences in every span, others in between.

    The same is said in all spans, so that what differs between them is their time alone.
    """
    size, filler = preset.samples_per_block, _filler(clip, spans, preset)
    wanted = {span.first_block + block: block for span in spans for block in range(span.blocks)}
    for index in range(spans[-1].end_block):
        source, block = (clip.samples, wanted[index]) if index in wanted else (filler, index % FILLER_BLOCKS)
        yield source[block * size : (block + 1) * size]


def _filler(clip: SyntheticClip, spans: Sequence[TimeWindow], preset: Preset) -> Samples:
    """Speech of ``FILLER_BLOCKS`` blocks, of another voice; nothing where no time lies between the spans."""
    if spans[-1].end_block == sum(span.blocks for span in spans):
        return np.zeros(0, np.float32)
    rng = np.random.default_rng((_FILLER, clip.identity))
    return speech(FILLER_BLOCKS * preset.frames_per_block, clip.split, rng)[0]


class WindowDecoder(FrameDecoder):
    """Decodes the blocks of spans; gives the bits of a decoder that decodes all of them.

    It begins ``MEMORY_BLOCKS`` before each span, whose pictures it yields too.
    """

    def __init__(self, vae: VAE, rules: StreamConfig, *, use_motion: bool, spans: Sequence[TimeWindow]) -> None:
        super().__init__(vae, rules, use_motion=use_motion)
        self._needed_blocks = [(max(0, span.first_block - MEMORY_BLOCKS), span.end_block) for span in spans]
        self._motion: Tensor | None = None

    def warm(self, session: DecoderSession, motion: Tensor) -> None:
        """See ``FrameDecoder``."""
        self._motion = motion
        super().warm(session, motion)

    def decode(self, session: DecoderSession, block: int, latent: Tensor) -> Iterator[Frames]:
        """See ``FrameDecoder``; yields nothing for blocks that no span needs."""
        if not any(first <= block < end for first, end in self._needed_blocks):
            return iter(())
        if session.next_block != block:
            assert self._motion is not None
            session.reset()
            super().warm(session, self._motion)
            session.next_block = block
        return super().decode(session, block, latent)
