"""One training sample before any network has seen it: pictures, sound and a prompt of the same seconds.

Every source of clips (recorded videos, the synthetic set) yields this, and everything that trains takes it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from live_avatar.config import SAMPLE_RATE_HZ

FPS = 25
"""Frames per second of every clip."""
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A talking person for T frames."""

    name: str
    frames: npt.NDArray[np.uint8]
    """[T, H, W, 3] at ``FPS``."""
    samples: npt.NDArray[np.float32]
    """[N] at 16 kHz in -1..1; N = T * ``SAMPLES_PER_FRAME``."""
    prompt: str

    def __post_init__(self) -> None:
        frames = self.frames.shape
        if len(frames) != 4 or frames[3] != 3 or self.frames.dtype != np.uint8 or not frames[0]:
            raise ValueError(f"clip {self.name}: frames are uint8 [T, H, W, 3], not {self.frames.dtype} {list(frames)}")
        if self.samples.shape != (frames[0] * SAMPLES_PER_FRAME,) or self.samples.dtype != np.float32:
            raise ValueError(
                f"clip {self.name}: {frames[0]} frames need float32 [{frames[0] * SAMPLES_PER_FRAME}] samples, "
                f"not {self.samples.dtype} {list(self.samples.shape)}"
            )
