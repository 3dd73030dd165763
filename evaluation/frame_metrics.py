"""What pictures are like, without asking who is in them: how sharp, of which colours, how near to others.

Letters: T frames, H and W pixels.
"""

import math

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
"""[T, H, W, 3] RGB."""
Values = npt.NDArray[np.float64]

CELLS = 4
"""Rows and columns of fields whose colours are compared: small movements of a head stay within one."""
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])


def sharpness(frames: Frames) -> float:
    """Variance of the Laplacian of the luma, 0..255, on average over the frames."""
    luma = frames @ _LUMA
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return float((around - 4 * middle).var(axis=(1, 2)).mean())


def colour_drift(frames: Frames, portrait: Frames) -> float:
    """How far the colours of ``frames`` are from those of ``portrait`` [H, W, 3], in CIELAB units (1: just visible).

    Colours are those of ``CELLS`` x ``CELLS`` fields, averaged over the time of the frames.
    """
    seen, wanted = (_lab(_fields(pictures)).mean(axis=0) for pictures in (frames, portrait[None]))
    return float(np.linalg.norm(seen - wanted, axis=-1).mean())


def psnr(frames: Frames, truth: Frames) -> float:
    """Decibels of the mean square error of ``frames`` against ``truth``."""
    error = float(np.square(frames.astype(np.float64) - truth).mean())
    return 10 * math.log10(255**2 / max(error, 1e-9))


def inside(frames: Frames, boxes: npt.NDArray[np.int32]) -> Frames:
    """The parts of ``frames`` within one box (top, left, bottom, right) per frame; all boxes are of one size."""
    parts = zip(frames, boxes, strict=True)
    return np.stack([frame[top:bottom, left:right] for frame, (top, left, bottom, right) in parts])


def _fields(frames: Frames) -> Values:
    """Mean linear light [T, CELLS, CELLS, 3] of every field."""
    level = frames / 255.0
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    rows = np.array_split(light, CELLS, axis=1)
    fields = [[part.mean(axis=(1, 2)) for part in np.array_split(row, CELLS, axis=2)] for row in rows]
    return np.moveaxis(np.array(fields), 2, 0)


def _lab(light: Values) -> Values:
    """Linear light [..., 3] as CIELAB under D65."""
    xyz = light @ _TO_XYZ.T / _WHITE
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
