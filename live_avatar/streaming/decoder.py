"""Latents to pictures, and a portrait to the sink: the two ends of the pipeline that touch the VAE.

``FrameDecoder`` has no state of its own; ``DecoderSession`` is its memory of one session.  It knows nothing of
codecs, containers or playback.

Letters: F latents of a block, T frames, h and w latent pixels.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from live_avatar.config import MOTION_LATENTS, StreamConfig
from live_avatar.model.vae import VAE, DecoderCache
from live_avatar.streaming.block import Sink


@dataclass(frozen=True)
class Frames:
    """Consecutive pictures of the output."""

    first: int
    """Number of the first picture; picture n belongs to audio time (n + dropped_frames) / fps (spec 2.11)."""
    pixels: Tensor
    """[T, H, W, 3] uint8"""


@dataclass
class DecoderSession:
    """What the decoder remembers of one session: the convolutions' caches and how far it has come."""

    cache: DecoderCache
    next_block: int = 0

    def reset(self) -> None:
        """Forgets everything."""
        self.cache.reset()
        self.next_block = 0


class FrameDecoder:
    """Decodes blocks of any session, one latent at a time, so that the first frames can leave early."""

    def __init__(self, vae: VAE, rules: StreamConfig, *, use_motion: bool) -> None:
        self.vae = vae
        self.rules = rules
        self.use_motion = use_motion

    def open(self, first_block: int = 0) -> DecoderSession:
        """The memory of a new session, whose first block is ``first_block``."""
        return DecoderSession(DecoderCache(), first_block)

    def encode_portrait(self, pixels: Tensor) -> Sink:
        """Sink version 0 from a portrait [3, H, W] in [-1, 1] (spec 2.7).

        The motion latents are those of a still clip of the portrait.
        """
        steps = self.encode_portrait_in_steps(pixels)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                sink: Sink = end.value
                return sink

    @torch.inference_mode()
    def encode_portrait_in_steps(self, pixels: Tensor) -> Generator[None, None, Sink]:
        """``encode_portrait`` for those who share a device: pauses after each short step, returns the sink."""
        reference = yield from self._still(pixels, self.rules.reference_frames)
        motion = None
        if self.use_motion:
            motion = yield from self._still(pixels, 1 + (MOTION_LATENTS - 1) * self.vae.config.temporal_factor)
        return Sink(version=0, reference=reference[:, -1:], motion=motion)

    @torch.inference_mode()
    def warm(self, session: DecoderSession, motion: Tensor) -> None:
        """Fills the caches with the past before the first block; its pictures are thrown away.

        Args:
            session: a session that has decoded nothing yet.
            motion: [16, n, h, w], oldest first.
        """
        self.vae.decode_next(motion[None, :, : self.rules.warmup_latents], session.cache)

    @torch.inference_mode()
    def decode(self, session: DecoderSession, block: int, latent: Tensor) -> Iterator[Frames]:
        """Decodes the latents [16, F, h, w] of ``block``; yields the pictures of each latent as they are ready.

        Unlike a denoising step this cannot be taken back: after a failure half-way the session is to be closed.

        Raises:
            ValueError: not the block that comes next.
        """
        if block != session.next_block:
            raise ValueError(f"block {block} came where block {session.next_block} was due")
        per_latent = self.vae.config.temporal_factor
        first = block * latent.shape[1] * per_latent - self.rules.dropped_frames
        for one in latent[None].split(1, dim=2):
            pixels = self.vae.decode_pixels(one, session.cache)[0]
            hidden = min(max(0, -first), len(pixels))
            if hidden < len(pixels):
                yield Frames(first + hidden, pixels[hidden:])
            first += per_latent
        session.next_block += 1

    def prime(self, session: DecoderSession, block: int, latent: Tensor) -> None:
        """Decodes the finished ``block`` of an earlier incarnation again; its pictures are thrown away.

        Raises:
            ValueError: see ``decode``.
        """
        for _ in self.decode(session, block, latent):
            pass

    def _still(self, pixels: Tensor, frames: int) -> Generator[None, None, Tensor]:
        """Latents [16, n, h, w] of a clip of ``frames`` times the same frame [3, H, W], in steps."""
        latents = yield from self.vae.encode_in_steps(pixels[None, :, None].expand(-1, -1, frames, -1, -1))
        return latents[0]
