"""How large a portrait may be, and the error of one that cannot be used."""

from dataclasses import dataclass
from typing import Literal

from live_avatar.limits import MAX_IMAGE_PIXELS

Reason = Literal["IMAGE_TOO_LARGE", "IMAGE_TOO_SLOW", "IMAGE_UNREADABLE"]


class PortraitError(ValueError):
    """A portrait that cannot be used; ``reason`` is for programs, the message for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True, kw_only=True)
class PortraitLimits:
    """How large a portrait may be; the defaults let any phone's picture pass."""

    max_bytes: int = 16 * 2**20
    max_pixels: int = MAX_IMAGE_PIXELS
    max_side: int = 12_000
    min_side: int = 16
    max_aspect: int = 8
    """Longer side over shorter side."""
    max_passes: int = 32
    """How often a decoder may go over ``max_pixels`` pixels; a progressive JPEG needs one pass for each scan."""

    def check_size(self, width: int, height: int) -> None:
        """Raises PortraitError where a picture of this size is too large, too small or too narrow."""
        short, long = sorted((width, height))
        if long > self.max_side or width * height > self.max_pixels:
            raise PortraitError(
                "IMAGE_TOO_LARGE",
                f"the image is {width}x{height}; at most {self.max_side} a side and {self.max_pixels} pixels are taken",
            )
        if short < self.min_side or long > short * self.max_aspect:
            raise PortraitError(
                "IMAGE_UNREADABLE",
                f"the image is {width}x{height}; it must be at least {self.min_side} a side "
                f"and at most {self.max_aspect} times as long as wide",
            )

    def check_bytes(self, count: int) -> None:
        """Raises PortraitError where a file of ``count`` bytes is too large."""
        if count > self.max_bytes:
            raise PortraitError("IMAGE_TOO_LARGE", f"the image has {count} bytes, at most {self.max_bytes} are taken")


DEFAULT_LIMITS = PortraitLimits()
