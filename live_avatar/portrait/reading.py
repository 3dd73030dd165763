"""A portrait's file to an upright RGB picture, by Pillow.

Decodes in the calling thread, without a bound on time or memory: what strangers send goes through a process of its
own, see ``jobs``.
"""

import io
import struct
import zlib
from dataclasses import dataclass

import pi_heif
from PIL import AvifImagePlugin, Image, ImageFile, ImageOps

from live_avatar.portrait.colour import to_srgb
from live_avatar.portrait.header import Header, read_header
from live_avatar.portrait.limits import DEFAULT_LIMITS, PortraitError, PortraitLimits

BACKGROUND = (255, 255, 255)
"""Shows through where a picture is transparent."""

REDUCED_FROM = 4_000_000
"""Pixels beyond which a picture may be decoded at a fraction of its size."""
_SPARE = 2
"""A reduced picture keeps at least so many pixels a side for each that is needed."""
_FACTORS = (8, 4, 2)
_ANIMATED_KINDS = {"PNG", "WEBP", "AVIF"}
"""Phones store further views behind the first JPEG or HEIC picture; the others use several pictures as animation."""
_ORIENTATION, _QUARTER_TURNS = 0x0112, range(5, 9)
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, RuntimeError, struct.error,
    zlib.error,
)  # fmt: skip
"""What Pillow's readers raise on malformed files."""

pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass(frozen=True)
class Portrait:
    """A decoded portrait."""

    image: Image.Image
    """RGB, upright, without metadata; smaller than the file's where less was needed."""
    width: int
    """Of the file's picture, upright."""
    height: int


def load_portrait(data: bytes, limits: PortraitLimits = DEFAULT_LIMITS) -> Image.Image:
    """A JPEG, PNG, WebP, HEIC or AVIF file as an upright RGB picture in full size; see ``read_portrait``."""
    return read_portrait(data, limits).image


def read_portrait(data: bytes, limits: PortraitLimits = DEFAULT_LIMITS, needed: int | None = None) -> Portrait:
    """A portrait's file, decoded.

    EXIF rotation is applied, colours become sRGB, all metadata is dropped; transparency is laid over white.

    Args:
        data: a JPEG, PNG, WebP, HEIC or AVIF file.
        limits: what it is held to.
        needed: longest side that the picture will be used at; one that is much larger is decoded at 1/2, 1/4 or 1/8
            of its size then.  None: in full size.

    Raises:
        PortraitError: see ``read_header``; also IMAGE_UNREADABLE for damaged or truncated files.
    """
    header = read_header(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=(header.kind,)) as image:
            return _decode(image, header, limits, needed)
    except PortraitError:
        raise
    except Image.DecompressionBombError as error:
        raise PortraitError("IMAGE_TOO_LARGE", "the image claims too many pixels") from error
    except _DAMAGE as error:
        raise PortraitError("IMAGE_UNREADABLE", "the image is damaged or incomplete") from error


def _decode(image: ImageFile.ImageFile, header: Header, limits: PortraitLimits, needed: int | None) -> Portrait:
    size = image.size
    limits.check_size(*size)
    if header.kind in _ANIMATED_KINDS and getattr(image, "is_animated", False):
        raise PortraitError("IMAGE_UNREADABLE", "the image is animated; a portrait must be one still picture")
    factor = _reduction(size, needed)
    if factor > 1:
        image.draft(None, (size[0] // factor, size[1] // factor))  # JPEG alone can
    image.load()
    small = _reduced(image, size, factor)
    turned = image.getexif().get(_ORIENTATION, 1) in _QUARTER_TURNS
    width, height = reversed(size) if turned else size
    return Portrait(_to_rgb(ImageOps.exif_transpose(small), header), width, height)


def _reduction(size: tuple[int, int], needed: int | None) -> int:
    if needed is None or size[0] * size[1] <= REDUCED_FROM:
        return 1
    return next((factor for factor in _FACTORS if min(size) // factor >= _SPARE * needed), 1)


def _reduced(image: Image.Image, size: tuple[int, int], factor: int) -> Image.Image:
    """The picture at 1 / ``factor`` of ``size``; of one that the decoder has reduced, what is left of that."""
    left = factor * image.width // size[0]
    return image if left <= 1 else _averaging(image).reduce(left)


def _averaging(image: Image.Image) -> Image.Image:
    """The picture in a mode whose pixels can be averaged; itself where they can: a copy would cost as much again."""
    if image.mode.startswith("I"):
        return _to_8_bits(image)
    mode = {"P": "RGB", "PA": "RGBA", "1": "L"}.get(image.mode, image.mode)
    if image.has_transparency_data:
        mode = {"L": "LA", "LA": "LA"}.get(mode, "RGBA")
    return image if mode == image.mode else image.convert(mode)


def _to_rgb(image: Image.Image, header: Header) -> Image.Image:
    """A fresh RGB picture in sRGB without metadata."""
    info = image.info
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if not image.has_transparency_data:
        rgb = to_srgb(image, header, info)
    else:
        image = _averaging(image)
        opaque = to_srgb(image.convert(image.mode.removesuffix("A")), header, info)
        opaque.putalpha(image.getchannel("A"))
        canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        canvas.alpha_composite(opaque)
        rgb = canvas.convert("RGB")
    rgb.info.clear()
    return rgb


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 bits in 256 levels."""
    return image.convert("I").point(lambda level: level * (1 / 256)).convert("L")
