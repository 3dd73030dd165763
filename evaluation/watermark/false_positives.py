"""Counts marks that are found where there are none.

The bound of ``live_avatar/watermark/detection.py`` is over the choice of the key.  So each unmarked window is searched
with many keys, which costs little: the transforms are the same for all.  These searches are over all shifts of the
whole frame; a smaller number of windows is searched fully, over all scales and speeds.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from live_avatar.watermark.carrier import carrier_of
from live_avatar.watermark.detection import THRESHOLD, Detector, Geometry, Planes, demodulate, lines_of

Seconds = npt.NDArray[np.float64]


@dataclass
class Null:
    """Scores of windows without a mark."""

    scores: list[float] = field(default_factory=list)
    """The largest over all shifts, one per window and key."""
    full_scores: list[float] = field(default_factory=list)
    """The largest over everything that is searched, one per window."""
    found: int = 0
    """Above the threshold, whether a CRC held or not."""

    def search(self, planes: Planes, seconds: Seconds, keys: int) -> None:
        """Searches a window with ``keys`` keys that were not used before."""
        lines = lines_of(demodulate(planes, seconds), 1.0)
        for _ in range(keys):
            detector = Detector(carrier_of(b"a key of no mark %20d" % len(self.scores)))
            score, _ = detector.best_shift(lines, Geometry())
            self.scores.append(score)
            self.found += score > THRESHOLD

    def search_fully(self, planes: Planes, seconds: Seconds) -> None:
        """Searches a window as ``live-avatar verify`` does."""
        detector = Detector(carrier_of(b"another key of no mark %20d" % len(self.full_scores)))
        score = detector.detect(planes, seconds).score
        self.full_scores.append(score)
        self.found += score > THRESHOLD

    def summary(self) -> dict[str, float]:
        """Counts and largest scores."""
        return {
            "windows_and_keys": len(self.scores),
            "full_searches": len(self.full_scores),
            "found": self.found,
            "threshold": THRESHOLD,
            "score_largest": max(self.scores, default=0.0),
            "score_median": float(np.median(self.scores)) if self.scores else 0.0,
            "full_score_largest": max(self.full_scores, default=0.0),
        }
