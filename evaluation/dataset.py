"""The evaluation set: synthetic people of the held-out split, with the truth about them.

Letters: T frames, H and W pixels.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.frame_metrics import Frames
from evaluation.mouth_metric import Track
from evaluation.windows import TimeWindow
from live_avatar.config import Preset
from live_avatar.trainer.synthetic.clips import SyntheticClip, person_of, reference, synthetic_clip
from live_avatar.trainer.synthetic.motion import still
from live_avatar.trainer.synthetic.painter import paint

REFERENCES = 50
"""People among whom the right one is to be found; the first of them are the subjects."""
OTHERS = range(1000, 1006)
"""Clips of whose sentences nothing is said."""


@dataclass(frozen=True)
class Subject:
    """One person with a sentence to say."""

    clip: SyntheticClip
    portrait: npt.NDArray[np.uint8]
    """[H, W, 3] at rest."""

    @property
    def number(self) -> int:
        """Among the references."""
        return self.clip.identity


@dataclass(frozen=True)
class Segment:
    """Frames of one span of a session."""

    span: TimeWindow
    frames: Frames
    hidden: int
    """Frames at the start of the span that are never shown."""


@dataclass(frozen=True)
class SessionVideo:
    """Measured segments of one session."""

    segments: tuple[Segment, ...]
    frames_per_second: float | None
    """Of everything from sound to pictures; None where not everything was done."""


def subject(number: int, span: TimeWindow, preset: Preset, size: int) -> Subject:
    """Person ``number``, whose sentence fills ``span``, in pictures of ``size`` x ``size``."""
    clip = synthetic_clip(number, frames=span.blocks * preset.frames_per_block, size=size, split="held_out")
    return Subject(clip, reference(clip))


def portraits(size: int, count: int = REFERENCES) -> Frames:
    """The references [P, H, W, 3] in the order of their numbers."""
    return np.stack([paint(person_of(number, "held_out"), still(), size)[0] for number in range(count)])


def other_truths(span: TimeWindow, preset: Preset) -> tuple[Track, ...]:
    """The openness [T] of mouths that say other sentences."""
    frames = span.blocks * preset.frames_per_block
    return tuple(synthetic_clip(number, frames=frames, size=16, split="held_out").openness for number in OTHERS)
