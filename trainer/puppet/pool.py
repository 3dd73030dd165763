"""Pictures in memory, painted before training begins: painting one puppet at a time is too slow for a step.

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

from live_avatar.trainer.puppet.clips import puppet_clip
from live_avatar.trainer.puppet.identity import Identity, draw_identity
from live_avatar.trainer.puppet.motion import Motion, Mouth, Track, Traits, draw_motion
from live_avatar.trainer.puppet.painter import Boxes, eye_boxes, mouth_boxes, paint
from live_avatar.trainer.puppet.voices import Split

TRAINING, HELD_OUT = 0, 1
"""First number of every seed: people of the two never meet."""
FIRST_SPEAKING = 5000
"""Clip with which ``speaking`` begins."""
FEW = 50
"""People who are not worth a process."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Frames with their boxes."""

    frames: npt.NDArray[np.uint8]
    """[P, T, H, W, 3]."""
    mouths: Boxes
    """Top, left, bottom, right, [P, T, 4]."""
    eyes: Boxes
    """The same."""
    openness: Track
    """Of the mouth, 0 to 1, [P, T]."""

    def take(self, chosen: npt.NDArray[np.int64]) -> "Pictures":
        """Those of ``chosen`` [n]."""
        return self._part(chosen)

    def cut(self, first: int, frames: int) -> "Pictures":
        """``frames`` frames of every clip, from ``first`` on."""
        return self._part((slice(None), slice(first, first + frames)))

    def _part(self, where: Any) -> "Pictures":
        return Pictures(
            frames=self.frames[where],
            mouths=self.mouths[where],
            eyes=self.eyes[where],
            openness=self.openness[where],
        )


def stills(people: int, each: int, size: int, *, split: int, seed: int = 0) -> Pictures:
    """``each`` unrelated poses of every one of ``people``, T = 1; mouths of every shape are equally frequent."""
    parts = _all_painted(partial(_poses, each, size, split, seed), people)
    return _joined(parts, lambda arrays: np.concatenate(arrays)[:, None])


def _all_painted(one: Callable[[int], Pictures], count: int) -> list[Pictures]:
    """``one`` of every number below ``count``, in several processes if they are many."""
    if count < FEW:
        return [one(number) for number in range(count)]
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as some:
        return list(some.map(one, range(count), chunksize=FEW))


def _poses(count: int, size: int, split: int, seed: int, person: int) -> Pictures:
    draws = np.random.default_rng((split, seed, person))
    who = draw_identity(draws)
    return _painted(who, _unrelated(count, draws), size)


def _painted(person: Identity, motion: Motion, size: int) -> Pictures:
    """One clip, without the axis P."""
    return Pictures(
        frames=paint(person, motion, size),
        mouths=mouth_boxes(person, motion, size),
        eyes=eye_boxes(person, motion, size),
        openness=motion.openness,
    )


def _unrelated(count: int, draws: np.random.Generator) -> Motion:
    """``count`` frames that do not follow from each other."""

    def uniform(low: float, high: float) -> npt.NDArray[np.float32]:
        return draws.uniform(low, high, count).astype(np.float32)

    mouth = Mouth(
        openness=np.maximum(uniform(-0.15, 1.0), 0),
        width=np.maximum(uniform(-0.5, 1.0), 0),
        roundness=np.maximum(uniform(-1.0, 1.0), 0),
        teeth=np.maximum(uniform(-0.5, 1.0), 0),
    )
    frame = draw_motion(mouth, Traits(smile=False, lively=True), draws).tracks()
    frame |= {
        "smile": (draws.random(count) < 0.5).astype(np.float32),
        "lid": np.maximum(uniform(-3.0, 1.0), 0),
        "brow": np.maximum(uniform(-0.5, 0.9), 0),
        "gaze": uniform(-0.6, 0.6),
        "sway_x": uniform(-0.05, 0.05),
        "sway_y": uniform(-0.03, 0.03),
        "turn": uniform(-0.065, 0.065),
    }
    return Motion(**frame)


def videos(clips: int, frames: int, size: int, *, split: int, seed: int = 0) -> Pictures:
    """``clips`` people who move and talk for ``frames`` frames; their mouths follow no sound."""
    return _joined(_all_painted(partial(_talking, frames, size, split, seed), clips), np.stack)


def speaking(clips: int, frames: int, size: int, *, split: Split) -> Pictures:
    """``clips`` people of ``puppet_clip``, whose mouths say what they say there."""
    return _joined(_all_painted(partial(_speaking, frames, size, split), clips), np.stack)


def _speaking(frames: int, size: int, split: Split, number: int) -> Pictures:
    clip = puppet_clip(FIRST_SPEAKING + number, frames=frames, size=size, split=split)
    return Pictures(frames=clip.frames, mouths=clip.mouth_boxes, eyes=clip.eye_boxes, openness=clip.openness)


def _joined(parts: Sequence[Pictures], join: Callable[[list[Any]], Any]) -> Pictures:
    """One of many: each field of ``parts`` through ``join``."""
    return Pictures(
        frames=join([part.frames for part in parts]),
        mouths=join([part.mouths for part in parts]),
        eyes=join([part.eyes for part in parts]),
        openness=join([part.openness for part in parts]),
    )


def _talking(frames: int, size: int, split: int, seed: int, clip: int) -> Pictures:
    """A person whose mouth runs from one random shape to the next, as fast as in speech."""
    draws = np.random.default_rng((split, seed, 1, clip))
    shapes = draws.uniform((-0.3, -0.5, -1.0, -0.5), 1.0, (frames, 4)).clip(0).astype(np.float32)
    times = np.cumsum(draws.choice((2, 3, 3, 4, 5, 9), frames))
    tracks = [np.interp(np.arange(frames), times, track).astype(np.float32) for track in shapes.T]
    mouth = Mouth(**dict(zip(("openness", "width", "roundness", "teeth"), tracks, strict=True)))
    traits = Traits(smile=bool(draws.integers(2)), lively=bool(draws.random() < 0.7))
    return _painted(draw_identity(draws), draw_motion(mouth, traits, draws), size)
