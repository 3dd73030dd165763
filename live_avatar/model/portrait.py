"""The reference picture as model input: its number range (spec 8.2).

Knows nothing of files, uploads, and the choice of a size or a part (`live_avatar.portrait`), and of the autoencoder.
"""

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from live_avatar.portrait.fitting import FitRule, fit_portrait


def prepare_portrait(image: Image.Image, height: int, width: int, rule: FitRule) -> Tensor:
    """The portrait as model input [3, height, width] in [-1, 1], float32."""
    return portrait_tensor(np.array(fit_portrait(image, height, width, rule)))


def portrait_tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """RGB pixels [height, width, 3] of the right size as model input [3, height, width] in [-1, 1], float32."""
    return rearrange(torch.from_numpy(pixels), "h w c -> c h w").float() / 255 * 2 - 1
