"""The newest sound that went to the audio encoder, kept so that it can go to another one.

Knows samples and their positions alone.
"""

import numpy as np

from live_avatar.services.gateway.audio.speech import Samples


class KeptSound:
    """Samples [n] at the model's rate without a gap; appended at the end, forgotten from either side."""

    def __init__(self) -> None:
        self._samples = np.empty(0, np.float32)
        self.first = 0
        """Position of the first sample held."""

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.first + self._samples.size

    def append(self, samples: Samples) -> None:
        """Adds ``samples`` [n] at the end."""
        self._samples = np.concatenate((self._samples, samples))

    def read(self, first: int, end: int) -> Samples:
        """The samples from position ``first``, which is held or the next, to ``end`` - 1, as far as there are any."""
        assert self.first <= first <= self.end, f"sample {first} is not among {self.first}..{self.end}"
        return self._samples[first - self.first : max(first, end) - self.first]

    def truncate(self, end: int) -> None:
        """Forgets the samples from position ``end`` on."""
        self._samples = self._samples[: max(0, end - self.first)]

    def forget(self, before: int) -> None:
        """Forgets the samples before position ``before``."""
        gone = min(max(0, before - self.first), self._samples.size)
        self._samples = self._samples[gone:]
        self.first += gone
