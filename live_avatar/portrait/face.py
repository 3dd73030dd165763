"""Where the face is in a picture, found by OpenCV's cascade of frontal faces where OpenCV is installed.

Knows nothing of files, sizes and how a picture is cut.  OpenCV is optional: without it, or with a release that brings
no cascades, no face is found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SEARCHED_SIDE = 480
"""Longer side of the picture that is searched; finer ones show no more faces."""
_CASCADE = "haarcascade_frontalface_alt.xml"
_SMALLEST_SHARE = 0.1
"""Of the shorter side: what is smaller is a bystander, or no face."""
_SCALE_STEP, _NEIGHBOURS = 1.05, 3
"""How finely sizes are tried, and how many finds in one place make a face."""


@dataclass(frozen=True)
class Box:
    """A part of a picture, in its pixels."""

    left: float
    top: float
    width: float
    height: float


FindFace = Callable[[Image.Image], Box | None]
"""The box from forehead to chin of the largest frontal face of an RGB picture; None where none is found."""


def cascade_file() -> Path | None:
    """What faces are found with; None where it is not installed.  Imports nothing."""
    package = find_spec("cv2")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "data" / _CASCADE
    return path if path.is_file() else None


@cache
def face_finder() -> FindFace:
    """Loads what finds faces; without it, what finds none."""
    path = cascade_file()
    if path is None:
        return _find_none
    cv2: Any = import_module("cv2")
    cv2.setNumThreads(1)  # in which order several threads find things is not settled
    return partial(_find, cv2.CascadeClassifier(str(path)), cv2.error)


def _find_none(image: Image.Image) -> Box | None:
    return None


def _find(classifier: Any, failure: type[Exception], image: Image.Image) -> Box | None:
    scale = SEARCHED_SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    grey = image.convert("L").resize((width, height), Image.Resampling.BILINEAR)
    smallest = round(min(width, height) * _SMALLEST_SHARE)
    try:
        boxes = classifier.detectMultiScale(
            np.asarray(grey), scaleFactor=_SCALE_STEP, minNeighbors=_NEIGHBOURS, minSize=(smallest, smallest)
        )
    except failure:
        return None  # a portrait without a known face is served all the same
    largest = max(boxes, key=lambda box: int(box[2]), default=None)
    return None if largest is None else Box(*(float(number) / scale for number in largest))
