"""Uploaded bytes to a picture, safely, and the size of the video made of it.

Reads the size a file claims before any decoder sees it, then lets Pillow decode.  Knows nothing of tensors, of the
model's numbers, or of how the bytes arrived.
"""

import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageOps

Reason = Literal["IMAGE_TOO_LARGE", "IMAGE_UNREADABLE"]

BACKGROUND = (255, 255, 255)
"""Shows through where a picture is transparent."""

SMALLEST_SCALE = 0.1
"""A picture that fits already is scaled down to no less than this (spec 8.1)."""
SEARCH_STEPS = 100

_FORMATS = ("JPEG", "PNG", "WEBP")
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)
"""What Pillow's readers raise on malformed files."""


class PortraitError(ValueError):
    """A portrait that cannot be used; ``reason`` is for programs, the message for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True, kw_only=True)
class PortraitLimits:
    """How large a portrait may be; the defaults let any phone's picture pass."""

    max_bytes: int = 16 * 2**20
    max_pixels: int = 25_000_000
    max_side: int = 12_000
    min_side: int = 16
    max_aspect: int = 8
    """Longer side over shorter side."""


DEFAULT_LIMITS = PortraitLimits()


def load_portrait(data: bytes, limits: PortraitLimits = DEFAULT_LIMITS) -> Image.Image:
    """A JPEG, PNG or WebP file as an upright RGB picture.

    EXIF rotation is applied and all metadata is dropped; transparency is laid over white.

    Raises:
        PortraitError: IMAGE_TOO_LARGE where the file or the size it claims is over a limit (nothing is decoded
            then); IMAGE_UNREADABLE for other formats, animations, damaged or truncated files, and pictures that are
            too small or too narrow to show a face.
    """
    if len(data) > limits.max_bytes:
        raise PortraitError("IMAGE_TOO_LARGE", f"the image has {len(data)} bytes, at most {limits.max_bytes} are taken")
    _check_size(*_claimed_size(data), limits)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(*image.size, limits)
            _check_still(image)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except PortraitError:
        raise
    except Image.DecompressionBombError as error:
        raise PortraitError("IMAGE_TOO_LARGE", "the image claims too many pixels") from error
    except _DAMAGE as error:
        raise PortraitError("IMAGE_UNREADABLE", "the image is damaged or incomplete") from error


def target_size(height: int, width: int, max_area: int, divisor: int = 64) -> tuple[int, int]:
    """Height and width of the video for a portrait of ``height`` x ``width`` pixels (spec 8.1).

    The first of 100 falling scales at which both sides, rounded up to multiples of ``divisor``, hold at most
    ``max_area`` pixels.  A portrait is never enlarged beyond that rounding.

    Raises:
        ValueError: a side is not positive, or no picture of this shape fits into ``max_area``.
    """
    if min(height, width, divisor) < 1:
        raise ValueError(f"height={height}, width={width}, divisor={divisor} must be positive")
    area = height * width
    largest, smallest = 1.0, SMALLEST_SCALE
    if area > max_area:
        slack = divisor - 1
        linear = slack * (height + width)
        constant = slack**2 - max_area
        largest = math.sqrt(max_area / area)
        smallest = (-linear + math.sqrt(max(0, linear**2 - 2 * area * constant))) / (2 * area)
    for step in range(SEARCH_STEPS):
        scale = largest - (largest - smallest) * step / SEARCH_STEPS
        sides = [math.ceil(max(1, int(side * scale)) / divisor) * divisor for side in (height, width)]
        if math.prod(sides) <= max_area:
            return sides[0], sides[1]
    return _floored_size(height, width, max_area, divisor)


def _floored_size(height: int, width: int, max_area: int, divisor: int) -> tuple[int, int]:
    """The size where the search finds none: sides of the right area rounded down, but never enlarged."""
    sides = math.sqrt(max_area * height / width), math.sqrt(max_area * width / height)
    if sides[0] >= height or sides[1] >= width:
        sides = height, width
    fitted = [int(side // divisor) * divisor for side in sides]
    if not all(fitted):
        raise ValueError(f"a {height}x{width} picture does not fit into max_area={max_area} in multiples of {divisor}")
    return fitted[0], fitted[1]


def _check_size(width: int, height: int, limits: PortraitLimits) -> None:
    short, long = sorted((width, height))
    if long > limits.max_side or width * height > limits.max_pixels:
        raise PortraitError(
            "IMAGE_TOO_LARGE",
            f"the image is {width}x{height}; at most {limits.max_side} a side and {limits.max_pixels} pixels are taken",
        )
    if short < limits.min_side or long > short * limits.max_aspect:
        raise PortraitError(
            "IMAGE_UNREADABLE",
            f"the image is {width}x{height}; it must be at least {limits.min_side} a side "
            f"and at most {limits.max_aspect} times as long as wide",
        )


def _check_still(image: Image.Image) -> None:
    # Phones store extra views behind the first JPEG picture; only PNG and WebP use several pictures as animation.
    if image.format in {"PNG", "WEBP"} and getattr(image, "is_animated", False):
        raise PortraitError("IMAGE_UNREADABLE", "the image is animated; a portrait must be one still picture")


def _to_rgb(image: Image.Image) -> Image.Image:
    """A fresh RGB picture without metadata."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    rgb = image.convert("RGB")
    rgb.info.clear()
    return rgb


def _claimed_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header, read without a decoder."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_size(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_size(data)
    except (struct.error, IndexError) as error:
        raise PortraitError("IMAGE_UNREADABLE", "the image ends within its header") from error
    raise PortraitError("IMAGE_UNREADABLE", "the image is not a JPEG, PNG or WebP file")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Size in the first start-of-frame segment of a JPEG file (ITU T.81, annex B)."""
    position = 2
    while True:
        if data[position] != 0xFF:
            raise PortraitError("IMAGE_UNREADABLE", "the JPEG header is damaged")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + max(2, length)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Size in the first chunk of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    match data[12:16]:
        case b"VP8X":
            if data[20] & 0x02:
                raise PortraitError("IMAGE_UNREADABLE", "the image is animated; a portrait must be one still picture")
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case _:
            raise PortraitError("IMAGE_UNREADABLE", "the WebP header is damaged")
    return width, height
