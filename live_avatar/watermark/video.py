"""Reads a video file as windows of small grey frames, for the detector.

Holds one window at a time, whatever the length of the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from live_avatar.watermark.detection import SIDE, WINDOW_S, Planes

MIN_FRAMES = 25
"""Of a window; a shorter rest of a file is left out."""
MIN_SIDE, MAX_ASPECT = 32, 8
_DEFAULT_FPS = 25
_MIN_SPACING_S = 1 / 32
"""Frames that follow faster are left out: the mark needs no more."""


@dataclass(frozen=True)
class Window:
    """Consecutive frames of a video."""

    planes: Planes
    seconds: npt.NDArray[np.float64]
    """Presentation time of each frame [N], from the file's own origin."""


def plane(frame: av.VideoFrame) -> npt.NDArray[np.float32]:
    """The brightness of a frame, ``SIDE`` pixels on the shorter side.

    Raises:
        ValueError: the frame is too small or too elongated to hold a mark.
    """
    short, long = sorted((frame.width, frame.height))
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        raise ValueError(f"frames of {frame.width}x{frame.height} pixels cannot hold a mark")
    width, height = (round(side * SIDE / short) for side in (frame.width, frame.height))
    way = Interpolation.AREA if short > SIDE else Interpolation.BICUBIC
    small = frame.reformat(width=width, height=height, format="gray8", interpolation=way)
    return small.to_ndarray().astype(np.float32)


def windows(path: Path) -> Iterator[Window]:
    """Consecutive windows of ``WINDOW_S`` of the first video stream of a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no video, or frames that cannot hold a mark.
    """
    planes: list[npt.NDArray[np.float32]] = []
    seconds: list[float] = []
    for second, one in _planes(path):
        if seconds and (second - seconds[0] >= WINDOW_S - 1e-3 or one.shape != planes[0].shape):
            yield from _window(planes, seconds)
            planes, seconds = [], []
        planes.append(one)
        seconds.append(second)
    yield from _window(planes, seconds)


def _window(planes: list[npt.NDArray[np.float32]], seconds: list[float]) -> Iterator[Window]:
    if len(planes) >= MIN_FRAMES:
        yield Window(np.stack(planes), np.array(seconds))


def _planes(path: Path) -> Iterator[tuple[float, npt.NDArray[np.float32]]]:
    """Time and brightness of each frame that is used."""
    last = -np.inf
    for second, frame in _frames(path):
        if second >= last + _MIN_SPACING_S:
            last = second
            yield second, plane(frame)


def _frames(path: Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """All frames with their times; those of a bare stream, which has none, come at its own rate."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no video")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or _DEFAULT_FPS)
            for number, frame in enumerate(container.decode(stream)):
                yield number / rate if frame.time is None else frame.time, frame
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as video: {error.strerror}") from None
