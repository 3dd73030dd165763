"""Which part of a portrait is shown, and how it gets the size of the video (spec 8.2)."""

from typing import Literal

from PIL import Image

FitRule = Literal["reference", "cover"]
"""``reference``: shorter side to shorter side, black where the picture does not reach (spec 8.2).

``cover``: as small as leaves no black.
"""


def fit_portrait(
    image: Image.Image, height: int, width: int, rule: FitRule, shape: tuple[int, int] | None = None
) -> Image.Image:
    """The portrait as an RGB picture of ``height`` x ``width``: resized bilinearly with antialiasing, cut centrally.

    ``shape`` is the width and height of the portrait before it was decoded smaller; None: those of ``image``.

    Raises:
        ValueError: ``height`` or ``width`` is not positive.
    """
    if min(height, width) < 1:
        raise ValueError(f"height={height}, width={width} must be positive")
    size = _reference_size if rule == "reference" else _cover_size
    resized = image.convert("RGB").resize(size(shape or image.size, height, width), Image.Resampling.BILINEAR)
    return _centre(resized, height, width)


def _reference_size(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """(width, height): the shorter side becomes the shorter of ``height`` and ``width``, the longer is truncated."""
    target = min(height, width)
    short, long = sorted(size)
    longer = int(target * long / short)
    return (target, longer) if size[0] <= size[1] else (longer, target)


def _cover_size(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """(width, height): the smallest size of the same shape that leaves nothing of the target uncovered."""
    scale = max(width / size[0], height / size[1])
    return max(width, round(size[0] * scale)), max(height, round(size[1] * scale))


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    """The central ``height`` x ``width`` of the picture, black outside it."""
    left, top = _centre_offset(image.width, width), _centre_offset(image.height, height)
    return image.crop((left, top, left + width, top + height))


def _centre_offset(size: int, target: int) -> int:
    """Where the cut begins; negative where the picture is smaller.  The odd pixel is placed as the reference does."""
    return -((target - size) // 2) if target > size else round((size - target) / 2)
