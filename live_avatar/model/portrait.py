"""The reference picture as the model wants it: which part of it, which number range (spec 8.2).

Knows nothing of files, uploads and the choice of a size (`live_avatar.portrait`), and of the autoencoder.
"""

from typing import Literal

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

FitRule = Literal["reference", "cover"]
"""``reference``: shorter side to shorter side, black where the picture does not reach (spec 8.2).

``cover``: as small as leaves no black.
"""


def prepare_portrait(image: Image.Image, height: int, width: int, rule: FitRule) -> Tensor:
    """The portrait as model input [3, height, width] in [-1, 1], float32."""
    pixels = torch.from_numpy(np.array(fit_portrait(image, height, width, rule)))
    return rearrange(pixels, "h w c -> c h w").float() / 255 * 2 - 1


def fit_portrait(image: Image.Image, height: int, width: int, rule: FitRule) -> Image.Image:
    """The portrait as an RGB picture of ``height`` x ``width``: resized bilinearly with antialiasing, cut centrally.

    Raises:
        ValueError: ``height`` or ``width`` is not positive.
    """
    if min(height, width) < 1:
        raise ValueError(f"height={height}, width={width} must be positive")
    size = _reference_size if rule == "reference" else _cover_size
    resized = image.convert("RGB").resize(size(image.size, height, width), Image.Resampling.BILINEAR)
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
