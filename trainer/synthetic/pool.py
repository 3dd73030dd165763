"""Pools of frames in memory, rendered before training begins: rendering during a step is too slow.

Letters: P pictures, T frames, H and W pixels.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from live_avatar.trainer.synthetic.clips import synthetic_clip
from live_avatar.trainer.synthetic.identity import Identity, draw_identity
from live_avatar.trainer.synthetic.motion import Motion, Mouth, Track, Traits, draw_motion
from live_avatar.trainer.synthetic.painter import Boxes, eye_boxes, mouth_boxes, paint
from live_avatar.trainer.synthetic.voices import Split

TRAINING, HELD_OUT = 0, 1
"""First number of every seed: people of the two never meet."""
FIRST_SPEAKING = 5000
"""Clip with which ``speaking`` begins."""
FEW = 50
"""People who are not worth a process."""


@dataclass(frozen=True, kw_only=True)
class FrameSet:
    """Frames with their boxes."""

    frames: npt.NDArray[np.uint8]
    """[P, T, H, W, 3]."""
    mouths: Boxes
    """Top, left, bottom, right, [P, T, 4]."""
    eyes: Boxes
    """The same."""
    openness: Track
    """Of the mouth, 0 to 1, [P, T]."""

    def take(self, chosen: npt.NDArray[np.int64]) -> "FrameSet":
        """Those of ``chosen`` [n]."""
        return self._part(chosen)

    def cut(self, first: int, frames: int) -> "FrameSet":
        """``frames`` frames of every clip, from ``first`` on."""
        return self._part((slice(None), slice(first, first + frames)))

    def _part(self, where: Any) -> "FrameSet":
        return FrameSet(
            frames=self.frames[where],
            mouths=self.mouths[where],
            eyes=self.eyes[where],
            openness=self.openness[where],
        )


def stills(people: int, each: int, size: int, *, split: int, seed: int = 0) -> FrameSet:
    """``each`` unrelated poses of every one of ``people``, T = 1; mouths of every shape are equally frequent."""
    parts = _all_painted(partial(_poses, each, size, split, seed), people)
    return _joined(parts, lambda arrays: np.concatenate(arrays)[:, None])


def _all_painted(one: Callable[[int], FrameSet], count: int) -> list[FrameSet]:
    """``one`` of every number below ``count``, in several processes if they are many."""
    if count < FEW:
        return [one(number) for number in range(count)]
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as some:
        return list(some.map(one, range(count), chunksize=FEW))


def _poses(count: int, size: int, split: int, seed: int, person: int) -> FrameSet:
    rng = np.random.default_rng((split, seed, person))
    who = draw_identity(rng)
    return _painted(who, _unrelated(count, rng), size)


def _painted(person: Identity, motion: Motion, size: int) -> FrameSet:
    """One clip, without the axis P."""
    return FrameSet(
        frames=paint(person, motion, size),
        mouths=mouth_boxes(person, motion, size),
        eyes=eye_boxes(person, motion, size),
        openness=motion.openness,
    )


def _unrelated(count: int, rng: np.random.Generator) -> Motion:
    """``count`` frames that do not follow from each other."""

    def uniform(low: float, high: float) -> npt.NDArray[np.float32]:
        return rng.uniform(low, high, count).astype(np.float32)

    mouth = Mouth(
        openness=np.maximum(uniform(-0.15, 1.0), 0),
        width=np.maximum(uniform(-0.5, 1.0), 0),
        roundness=np.maximum(uniform(-1.0, 1.0), 0),
        teeth=np.maximum(uniform(-0.5, 1.0), 0),
    )
    frame = draw_motion(mouth, Traits(smile=False, lively=True), rng).tracks()
    frame |= {
        "smile": (rng.random(count) < 0.5).astype(np.float32),
        "lid": np.maximum(uniform(-3.0, 1.0), 0),
        "brow": np.maximum(uniform(-0.5, 0.9), 0),
        "gaze": uniform(-0.6, 0.6),
        "sway_x": uniform(-0.05, 0.05),
        "sway_y": uniform(-0.03, 0.03),
        "turn": uniform(-0.065, 0.065),
    }
    return Motion(**frame)


def videos(clips: int, frames: int, size: int, *, split: int, seed: int = 0) -> FrameSet:
    """``clips`` people who move and talk for ``frames`` frames; their mouths follow no sound."""
    return _joined(_all_painted(partial(_talking, frames, size, split, seed), clips), np.stack)


def speaking(clips: int, frames: int, size: int, *, split: Split) -> FrameSet:
    """``clips`` people of ``synthetic_clip``, whose mouths say what they say there."""
    return _joined(_all_painted(partial(_speaking, frames, size, split), clips), np.stack)


def _speaking(frames: int, size: int, split: Split, number: int) -> FrameSet:
    clip = synthetic_clip(FIRST_SPEAKING + number, frames=frames, size=size, split=split)
    return FrameSet(frames=clip.frames, mouths=clip.mouth_boxes, eyes=clip.eye_boxes, openness=clip.openness)


def _joined(parts: Sequence[FrameSet], join: Callable[[list[Any]], Any]) -> FrameSet:
    """One of many: each field of ``parts`` through ``join``."""
    return FrameSet(
        frames=join([part.frames for part in parts]),
        mouths=join([part.mouths for part in parts]),
        eyes=join([part.eyes for part in parts]),
        openness=join([part.openness for part in parts]),
    )


def _talking(frames: int, size: int, split: int, seed: int, clip: int) -> FrameSet:
    """A person whose mouth runs from one random shape to the next, as fast as in speech."""
    rng = np.random.default_rng((split, seed, 1, clip))
    shapes = rng.uniform((-0.3, -0.5, -1.0, -0.5), 1.0, (frames, 4)).clip(0).astype(np.float32)
    times = np.cumsum(rng.choice((2, 3, 3, 4, 5, 9), frames))
    tracks = [np.interp(np.arange(frames), times, track).astype(np.float32) for track in shapes.T]
    mouth = Mouth(**dict(zip(("openness", "width", "roundness", "teeth"), tracks, strict=True)))
    traits = Traits(smile=bool(rng.integers(2)), lively=bool(rng.random() < 0.7))
    return _painted(draw_identity(rng), draw_motion(mouth, traits, rng), size)
