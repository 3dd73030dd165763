"""Motion of a synthetic person: the mouth follows the speech; blinks, sway, brows and gaze are random.

Letters: T frames.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from live_avatar.trainer.clip import FPS

Track = npt.NDArray[np.float32]

BLINK = np.array([0.5, 1.0, 1.0, 0.75, 0.45, 0.2], np.float32)
"""How far the lid is down in the frames of one blink."""
BLINK_EVERY_S = (1.5, 4.5)
SWAY_HZ = (0.15, 0.8)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a prompt decides."""

    smile: bool
    lively: bool
    """Sways and raises the brows a lot; else hardly."""


@dataclass(frozen=True, kw_only=True)
class Mouth:
    """The mouth of T frames, each track float32 [T] from 0 to about 1."""

    openness: Track
    width: Track
    roundness: Track
    teeth: Track


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Every moving number of T frames, each a track float32 [T]."""

    openness: Track
    width: Track
    roundness: Track
    teeth: Track
    smile: Track
    lid: Track
    """0: open, 1: shut."""
    brow: Track
    gaze: Track
    """-1: left, 1: right."""
    sway_x: Track
    sway_y: Track
    turn: Track
    """Radians about the neck."""

    @property
    def frames(self) -> int:
        """T."""
        return self.openness.size

    def cut(self, first: int, count: int) -> "Motion":
        """At most ``count`` frames from ``first`` on."""
        return Motion(**{name: track[first : first + count] for name, track in self.tracks().items()})

    def tracks(self) -> dict[str, Track]:
        """All of it by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def draw_motion(mouth: Mouth, traits: Traits, rng: np.random.Generator) -> Motion:
    """A random motion of a head whose mouth moves as ``mouth`` says."""
    frames = mouth.openness.size
    swing = 1.0 if traits.lively else 0.2
    lift = _sway(frames, 1.0, rng)
    return Motion(
        openness=mouth.openness,
        width=mouth.width,
        roundness=mouth.roundness,
        teeth=mouth.teeth,
        smile=np.full(frames, float(traits.smile), np.float32),
        lid=_blinks(frames, rng),
        brow=(0.9 * swing * np.maximum(lift, 0)).astype(np.float32),
        gaze=np.clip(_sway(frames, 0.6, rng), -1, 1),
        sway_x=_sway(frames, 0.055 * swing, rng),
        sway_y=_sway(frames, 0.035 * swing, rng),
        turn=_sway(frames, 0.07 * swing, rng),
    )


def still(frames: int = 1) -> Motion:
    """A head at rest: eyes open, mouth shut, no smile."""
    return Motion(**{field.name: np.zeros(frames, np.float32) for field in fields(Motion)})


def _sway(frames: int, size: float, rng: np.random.Generator) -> Track:
    """Two sines of random rate and phase, together at most ``size``."""
    times = np.arange(frames) / FPS
    rates, phases = rng.uniform(*SWAY_HZ, 2), rng.uniform(0, 2 * np.pi, 2)
    waves = np.sin(2 * np.pi * rates[:, None] * times + phases[:, None])
    weights = np.array([0.65, 0.35]) * size * rng.uniform(0.6, 1.0)
    return np.asarray(weights @ waves, np.float32)


def _blinks(frames: int, rng: np.random.Generator) -> Track:
    lid = np.zeros(frames + BLINK.size, np.float32)
    start = rng.uniform(0, BLINK_EVERY_S[1]) * FPS
    while start < frames:
        lid[int(start) : int(start) + BLINK.size] = BLINK
        start += rng.uniform(*BLINK_EVERY_S) * FPS
    return lid[:frames]
