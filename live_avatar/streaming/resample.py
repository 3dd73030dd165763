"""Client audio to the rate of the speech encoder, without drift and whatever the chunks.

One soxr stream per session: the ratio of the rates is exact, so after hours output sample n still stands for time
n / 16,000 s.  Feeding a whole file at once or sample by sample gives the same bits.  Knows nothing of blocks.
"""

import numpy as np
import numpy.typing as npt
import soxr

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.limits import MAX_RATE_HZ, MIN_RATE_HZ

Samples = npt.NDArray[np.float32]


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
        self._stream = None if passes else soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32", "HQ")

    def append(self, samples: Samples) -> Samples:
        """The output that ``samples`` [n] complete; may be empty.

        Raises:
            ValueError: not one-dimensional finite float32; the stream is as before.
        """
        checked_samples(samples)
        if self._stream is None:
            return samples
        output: Samples = self._stream.resample_chunk(samples)
        return output

    def finish(self) -> Samples:
        """The rest of the output.  The object then stands at the start of a new stream."""
        nothing = np.empty(0, np.float32)
        if self._stream is None:
            return nothing
        tail: Samples = self._stream.resample_chunk(nothing, last=True)
        self._stream.clear()
        return tail

    def reset(self) -> None:
        """Forgets the stream so far."""
        if self._stream is not None:
            self._stream.clear()


def resample(samples: Samples, rate_hz: int) -> Samples:
    """A whole recording [n] at ``rate_hz`` to ``SAMPLE_RATE_HZ``.

    Raises:
        ValueError: the rate is not served, or the samples are not one-dimensional finite float32.
    """
    resampler = Resampler(rate_hz)
    return np.concatenate((resampler.append(samples), resampler.finish()))
