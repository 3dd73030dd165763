"""Adds the mark to decoded frames, on the device that has them.

Letters: T frames, H and W pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from live_avatar.watermark.carrier import Carrier, render, sign_at
from live_avatar.watermark.payload import Payload, encode, slot_of

MIN_PSNR_DB, MAX_PSNR_DB = 44.0, 47.0
_FEW_PIXELS = 256
"""Shorter side up to which a mark has ``MIN_PSNR_DB``; where there are more pixels each needs less of it."""
_LUMA = (0.2126, 0.7152, 0.0722)
_FIELDS = 48
"""Square fields along the shorter side in which activity is measured."""
_MIN_FIELD = 4
_CALM, _BUSY, _SLOPE = 1.0, 2.5, 1 / 30
"""The map: its least and largest value before normalising, and its growth per grey level of standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Which time of the stream a frame of the output has."""

    fps: int
    frames_per_block: int
    dropped_frames: int
    """At the start of block 0, which never leave."""


class Marker:
    """Marks the frames of one session.  Not thread-safe."""

    def __init__(self, carrier: Carrier, clock: Clock, *, deployment: int, session: int, device: torch.device) -> None:
        self._carrier = carrier
        self._clock = clock
        self._deployment = deployment
        self._session = session
        self._device = device
        self._pattern: tuple[object, Tensor] | None = None

    @torch.inference_mode()
    def mark(self, pixels: Tensor, first: int) -> Tensor:
        """Marks consecutive frames of one block.

        Args:
            pixels: [T, H, W, 3] uint8 RGB.
            first: number of the first of them in the output of the session.

        Returns:
            The marked frames, of the same shape and type.
        """
        position = first + self._clock.dropped_frames
        pattern = self._pattern_of(slot_of(position // self._clock.frames_per_block), *pixels.shape[1:3])
        times = (position + np.arange(len(pixels))) / self._clock.fps
        signs = torch.from_numpy(sign_at(times).astype(np.int16)).to(self._device)
        strength = 255 / 10 ** (psnr_db(*pixels.shape[1:3]) / 20)
        delta = (pattern * activity(pixels[0])).mul_(strength).round_().to(torch.int16)
        marked = pixels.to(torch.int16) + signs[:, None, None, None] * delta[:, :, None]
        return marked.clamp_(0, 255).to(torch.uint8)

    def _pattern_of(self, slot: int, height: int, width: int) -> Tensor:
        """The mark [H, W] of a slot, rendered once."""
        wanted = slot, height, width
        if self._pattern is None or self._pattern[0] != wanted:
            coded = encode(Payload(self._deployment, self._session, slot))
            rendered = torch.from_numpy(render(self._carrier.spectrum(coded), height, width))
            self._pattern = wanted, rendered.to(self._device)
        return self._pattern[1]


def psnr_db(height: int, width: int) -> float:
    """255 over the root mean square of the mark before rounding, in frames of a size."""
    more = 20 * math.log10(min(height, width) / _FEW_PIXELS)
    return min(max(MIN_PSNR_DB + more, MIN_PSNR_DB), MAX_PSNR_DB)


def activity(frame: Tensor) -> Tensor:
    """How much of the mark each pixel of a frame [H, W, 3] hides: [H, W], with a mean square of 1.

    Grows with the standard deviation of the brightness within small fields, between which it is interpolated.
    """
    height, width = frame.shape[:2]
    field = max(_MIN_FIELD, min(height, width) // _FIELDS)
    luma = (frame.float() @ frame.new_tensor(_LUMA, dtype=torch.float32))[None, None]
    mean, square = (
        functional.avg_pool2d(one, field, ceil_mode=True, count_include_pad=False) for one in (luma, luma * luma)
    )
    deviation = (square - mean * mean).clamp_(min=0).sqrt_()
    gain = (_CALM + _SLOPE * deviation).clamp_(max=_BUSY)
    gain = functional.interpolate(gain, size=(height, width), mode="bilinear", align_corners=False)
    return (gain / gain.square().mean().sqrt())[0, 0]
