"""The newest sound that went on, kept so that it can go to somebody else as well.

Knows samples, their positions and where they come from.
"""

from collections.abc import Iterable

import numpy as np

from live_avatar.services.gateway.audio.sample_log import SILENCE, Layout, Run
from live_avatar.services.gateway.audio.speech import Samples


class KeptSound:
    """Samples [n] of one rate without a gap; appended at the end, forgotten from either side.

    Args:
        first: position of the first sample that is appended.
    """

    def __init__(self, first: int = 0) -> None:
        self._samples = np.empty(0, np.float32)
        self.layout = Layout()
        """Where they come from."""
        self.first = first
        """Position of the first sample held."""

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.first + self._samples.size

    def append(self, samples: Samples, runs: Iterable[Run] | None = None) -> None:
        """Adds ``samples`` [n] at the end, which come from ``runs``; None: from nowhere."""
        self._samples = np.concatenate((self._samples, samples))
        self.layout.extend([Run(SILENCE, samples.size)] if runs is None else runs)

    def read(self, first: int, end: int) -> Samples:
        """The samples from position ``first``, which is held or the next, to ``end`` - 1, as far as there are any."""
        assert self.first <= first <= self.end, f"sample {first} is not among {self.first}..{self.end}"
        return self._samples[first - self.first : max(first, end) - self.first]

    def truncate(self, end: int) -> None:
        """Forgets the samples from position ``end`` on."""
        kept = max(0, end - self.first)
        self._samples = self._samples[:kept]
        self.layout.keep(kept)

    def forget(self, before: int) -> None:
        """Forgets the samples before position ``before``."""
        gone = min(max(0, before - self.first), self._samples.size)
        self._samples = self._samples[gone:]
        self.layout.take(gone)
        self.first += gone
