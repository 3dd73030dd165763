"""Which part of a portrait is shown, and how it gets the size of the video (spec 8.2)."""

from typing import Literal

from PIL import Image

from live_avatar.portrait.face import Box

ENOUGH_SHARE = 0.6
"""Of the shorter side of a small picture: a face that takes as much of it is near enough."""
FACE_SHARE = 0.75
"""What one that takes less is brought to, where the portrait has the pixels for it: as in the training of TINY."""
SMALL_SIDE = 128
"""Shorter side up to which a picture is small: a face that takes little of it has too few pixels to speak."""

Part = tuple[float, float, float, float]
"""Left, top, right and bottom."""

FitRule = Literal["reference", "cover"]
"""``reference``: shorter side to shorter side, black where the picture does not reach (spec 8.2).

``cover``: as small as leaves no black; cut about the face where one is known.
"""


def fit_portrait(
    image: Image.Image,
    height: int,
    width: int,
    rule: FitRule,
    shape: tuple[int, int] | None = None,
    face: Box | None = None,
) -> Image.Image:
    """The portrait as an RGB picture of ``height`` x ``width``: resized bilinearly with antialiasing, and cut.

    What is cut off is the border: equally on both sides, or with ``cover`` so that the ``face`` is in the middle.  A
    small picture shows the head of a portrait that shows more.  A portrait whose face is large enough and
    whose shape is that of the picture is not cut.

    ``shape`` is the width and height of the portrait before it was decoded smaller; None: those of ``image``.

    Raises:
        ValueError: ``height`` or ``width`` is not positive.
    """
    if min(height, width) < 1:
        raise ValueError(f"height={height}, width={width} must be positive")
    part = None if face is None or rule == "reference" else part_about(face, image.size, height, width)
    if part is not None:
        return image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, box=part)
    size = _reference_size if rule == "reference" else _cover_size
    resized = image.convert("RGB").resize(size(shape or image.size, height, width), Image.Resampling.BILINEAR)
    return _centre(resized, height, width)


def part_about(face: Box, size: tuple[int, int], height: int, width: int) -> Part | None:
    """The part of a portrait of ``size`` (width, height) that has the shape of the picture and the face in the middle.

    Where the portrait ends, the face is off the middle.  None: all of the portrait.
    """
    scale = min(size[0] / width, size[1] / height)  # pixels of the portrait for one of the picture
    if min(height, width) <= SMALL_SIDE:
        extent, shorter = max(face.width, face.height), min(height, width)
        if extent < ENOUGH_SHARE * shorter * scale:
            scale = min(scale, max(extent / (FACE_SHARE * shorter), 1.0))
    sides = width * scale, height * scale
    room = size[0] - sides[0], size[1] - sides[1]
    if max(room) < 1:
        return None
    centre = face.left + face.width / 2, face.top + face.height / 2
    left, top = (max(0.0, min(centre[axis] - sides[axis] / 2, room[axis])) for axis in (0, 1))
    return left, top, min(left + sides[0], size[0]), min(top + sides[1], size[1])


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
