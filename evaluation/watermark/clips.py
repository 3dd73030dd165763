"""What is marked: clips of synthetic people, of the TINY system, and of photographs under a camera that moves slowly.

Letters: T frames, H and W pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.avatar import Avatar
from evaluation.dataset import subject
from evaluation.frame_metrics import Frames
from evaluation.variants import Streamed
from evaluation.windows import spans_of
from live_avatar.cli.inputs import TRAINED
from live_avatar.config import TINY
from live_avatar.trainer.synthetic.clips import synthetic_clip

FRAMES = 62
"""Of a clip; a window of two seconds begins at any frame of a block."""
SIZES = ((256, 256), (704, 384))
"""Width and height of the served video."""
_SLOWEST, _FASTEST, _MARGIN = 0.0, 0.6, 48
"""Pixels per frame of the camera, and pixels around a photograph's crop."""
_SESSION_S = 10


@dataclass(frozen=True)
class Source:
    """One clip before it is marked."""

    kind: str
    frames: Frames
    """[T, H, W, 3] as decoded."""
    enlarged: int = 1
    """Factor by which the encoder enlarges it."""


def sources(number: int, width: int, height: int, photographs: list[Path], seed: int) -> Iterator[Source]:
    """``number`` clips that are served with ``width`` x ``height`` pixels, of all kinds alternately."""
    kinds: list[Callable[[int], Source]] = [lambda index: _synthetic(seed + index, width, height)]
    if photographs:
        kinds.append(lambda index: _photograph(photographs[index % len(photographs)], seed + index, width, height))
    if width == height and not width % TINY_SIDE:
        generated = _generated(seed, width // TINY_SIDE)
        kinds.append(lambda _: next(generated))
    for index in range(number):
        yield kinds[index % len(kinds)](index // len(kinds))


TINY_SIDE = 64


def _synthetic(index: int, width: int, height: int) -> Source:
    side = max(width, height)
    frames = synthetic_clip(index, frames=FRAMES, size=side, split="held_out").frames
    top = (side - height) // 2
    return Source("synthetic people", np.ascontiguousarray(frames[:, top : top + height, :width]))


def _photograph(file: Path, seed: int, width: int, height: int) -> Source:
    """A straight movement over a photograph, at a random speed and in a random direction."""
    rng = np.random.default_rng(seed)
    speed, angle = rng.uniform(_SLOWEST, _FASTEST), rng.uniform(0, 2 * np.pi)
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    factor = max((width + _MARGIN) / image.width, (height + _MARGIN) / image.height)
    image = image.resize((round(image.width * factor) + 1, round(image.height * factor) + 1), Image.Resampling.LANCZOS)
    frames = []
    for time in range(FRAMES):
        way = speed * (time - FRAMES / 2)
        left = (image.width - width) / 2 + way * np.cos(angle)
        top = (image.height - height) / 2 + way * np.sin(angle)
        moved = image.transform((width, height), Image.Transform.AFFINE, (1, 0, left, 0, 1, top), _CUBIC)
        frames.append(np.asarray(moved))
    return Source("photographs", np.stack(frames))


_CUBIC = Image.Resampling.BICUBIC


def _generated(seed: int, enlarged: int) -> Iterator[Source]:
    """Clips of the shipped TINY system, one session after another."""
    avatar = Avatar(TINY, TRAINED)
    ours = Streamed(name="4 steps", about="", avatar=avatar)
    spans = spans_of((0,), _SESSION_S, TINY)
    while True:
        video = ours.record(subject(seed, spans[0], TINY, TINY_SIDE), spans, seed, lambda _: None)
        frames = video.segments[0].frames[TINY.stream.dropped_frames :]
        for first in range(0, len(frames) - FRAMES + 1, FRAMES):
            yield Source("TINY", frames[first : first + FRAMES], enlarged)
        seed += 1
