"""Client audio to the rate of the speech encoder, without drift and whatever the chunks.

One soxr stream per session: the ratio of the rates is exact, so after hours output sample n still stands for time
n / 16,000 s.  Feeding a whole file at once or sample by sample gives the same bits.  Knows nothing of blocks.
"""

from math import gcd

import numpy as np
import numpy.typing as npt
import soxr

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.limits import MAX_RATE_HZ, MIN_RATE_HZ

Samples = npt.NDArray[np.float32]
_MEMORY_PER_S = 2
"""The filter is at its steady state after half a second."""


def checked_samples(samples: Samples) -> Samples:
    """``samples`` itself, if it is one-dimensional finite float32.

    Raises:
        ValueError: it is not; one NaN would spoil all later output of a stream.
    """
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise ValueError(f"samples are float32 [N], not {samples.dtype} {list(samples.shape)}")
    if not np.isfinite(samples).all():
        position = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise ValueError(f"sample {position} is {samples[position]}, not a finite number")
    return samples


class Resampler:
    """Mono float32 audio at ``rate_hz`` to ``SAMPLE_RATE_HZ``, for one stream.

    Output lags input by the filter's length, mostly under 40 ms (8 kHz: 115 ms); at the encoder's own rate samples
    pass unchanged and at once.
    """

    def __init__(self, rate_hz: int) -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise ValueError(f"sample rate {rate_hz} Hz is outside {MIN_RATE_HZ}..{MAX_RATE_HZ}")
        passes = rate_hz == SAMPLE_RATE_HZ
        self._rate_hz = rate_hz
        self._consumed = 0
        self._produced = 0
        self._surplus = 0
        """Samples of output that come next and were given away before."""
        self._ahead = np.empty(0, np.float32)
        """Output that is there before it is due."""
        self._stream = None if passes else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32", "HQ")

    def append(self, samples: Samples) -> Samples:
        """The output that ``samples`` [n] complete; may be empty.

        Raises:
            ValueError: not one-dimensional finite float32; the stream is as before.
        """
        checked_samples(samples)
        self._consumed += samples.size
        if self._stream is None:
            self._produced += samples.size
            return samples
        return self._give(self._stream.resample_chunk(samples))

    @property
    def consumed(self) -> int:
        """Samples that came since the beginning of the stream."""
        return self._consumed

    @property
    def produced(self) -> int:
        """Samples of output so far."""
        return self._produced

    @property
    def memory(self) -> int:
        """How many of the newest samples ``go_on`` needs, at most all there are."""
        if self._stream is None:
            return 0
        return self._consumed - self._begin(self._consumed)

    def go_on(self, recent: Samples, consumed: int, produced: int) -> None:
        """Goes on with a stream of which another object has made a part; its output differs by less than 1e-6.

        Args:
            recent: [n], the newest samples of that part; ``memory`` of them.
            consumed: samples of that part.
            produced: samples of output that the other object has given.
        """
        self.reset()
        self._consumed, self._produced = consumed, produced
        if self._stream is None:
            return
        first = self._begin(consumed) * SAMPLE_RATE_HZ // self._rate_hz
        output: Samples = self._stream.resample_chunk(recent)
        self._surplus = max(0, produced - first - output.size)
        self._ahead = output[max(0, produced - first) :]

    def _begin(self, consumed: int) -> int:
        """The last sample from which a stream can begin that goes on after ``consumed``: one that both rates share."""
        period = self._rate_hz // gcd(self._rate_hz, SAMPLE_RATE_HZ)
        return max(0, consumed - self._rate_hz // _MEMORY_PER_S) // period * period

    def _give(self, output: Samples) -> Samples:
        """What is due of ``output``, which follows what was made before."""
        if self._surplus:
            known = min(self._surplus, output.size)
            self._surplus, output = self._surplus - known, output[known:]
        if self._ahead.size:
            self._ahead, output = np.empty(0, np.float32), np.concatenate((self._ahead, output))
        self._produced += output.size
        return output

    def finish(self) -> Samples:
        """The rest of the output.  The object then stands at the start of a new stream."""
        nothing = np.empty(0, np.float32)
        if self._stream is None:
            self.reset()
            return nothing
        tail = self._give(self._stream.resample_chunk(nothing, last=True))
        self.reset()
        return tail

    def reset(self) -> None:
        """Forgets the stream so far."""
        self._consumed = self._produced = self._surplus = 0
        self._ahead = np.empty(0, np.float32)
        if self._stream is not None:
            self._stream.clear()


def resample(samples: Samples, rate_hz: int) -> Samples:
    """A whole recording [n] at ``rate_hz`` to ``SAMPLE_RATE_HZ``.

    Raises:
        ValueError: the rate is not served, or the samples are not one-dimensional finite float32.
    """
    resampler = Resampler(rate_hz)
    return np.concatenate((resampler.append(samples), resampler.finish()))
