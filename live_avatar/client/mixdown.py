"""Several channels to one, without losing a voice: channels that cancel each other are not added.

Knows frames and samples; nothing of files.
"""

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame

Samples = npt.NDArray[np.int16]

CANCELLED = 0.1
"""Part of the loudest channel's power below which the mix has lost the voice; two unlike channels keep a quarter."""
UNLIKE = 0.5
"""Part of the power that unlike channels keep in a mix; one that keeps less is one whose channels cancel each other,
one that keeps more is quiet only because most channels are."""
CENTRE_SPEAKS = 0.1
"""Part of the loudest channel's power from which on the centre carries the voice."""
_AUDIBLE = 100.0
"""Power of 16-bit samples, -70 dB of full scale, below which nothing is decided."""
_STEREO = 2
_CENTRE, _BASS = "FC", "LFE"


class Mixdown:
    """Frames of any kind in, 16-bit samples of one channel out.

    Args:
        rate_hz: of what comes out.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._kind: tuple[str, str, int] | None = None
        self._mixer: av.AudioResampler | None = None
        self._splitter: av.AudioResampler | None = None
        self._names: list[str] = []
        self._chosen: int | None = None
        """The channel that is used instead of the mix from now on."""
        self.cancelled = False
        """Channels cancelled each other, so that one of them was used."""

    def add(self, frame: AudioFrame) -> Iterator[Samples]:
        """What a frame adds; a change of rate, format or channels begins anew."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            yield from self.finish()
            self._begin(kind, frame)
        frame.pts = None  # what was lost is filled by whoever knows of it
        yield from self._mixed(frame)

    def finish(self) -> Iterator[Samples]:
        """What the resamplers still hold; the next frame begins anew."""
        if self._kind is not None:
            yield from self._mixed(None)
        self._kind = None

    def _begin(self, kind: tuple[str, str, int], frame: AudioFrame) -> None:
        names = [channel.name for channel in frame.layout.channels]
        if names != self._names:
            self._names, self._chosen = names, None
        self._kind = kind
        self._mixer = self._splitter = None
        if len(self._names) <= _STEREO:
            self._mixer = av.AudioResampler(format="s16", layout="mono", rate=self._rate_hz)
        if len(self._names) > 1:
            self._splitter = av.AudioResampler(format="s16p", layout=frame.layout, rate=self._rate_hz)

    def _mixed(self, frame: AudioFrame | None) -> Iterator[Samples]:
        mixed = None if self._mixer is None else _joined(self._mixer, frame)
        if self._splitter is None:
            assert mixed is not None, "a single channel has a mixer"
            chosen = mixed[0]
        else:
            channels = _joined(self._splitter, frame)
            chosen = self._choose(channels, self._mean(channels) if mixed is None else mixed[0])
        if chosen.size:
            yield chosen

    def _mean(self, channels: Samples) -> Samples:
        """The mean of all channels but the bass."""
        audible = [index for index, name in enumerate(self._names) if name != _BASS]
        mean: Samples = np.rint(channels[audible or slice(None)].mean(axis=0, dtype=np.float64)).astype(np.int16)
        return mean

    def _choose(self, channels: Samples, mixed: Samples) -> Samples:
        """The mix, or from where on it loses the voice, a channel that has it."""
        if self._chosen is None and channels.size:
            powers = np.square(channels, dtype=np.float64).mean(axis=1)
            powers[[index for index, name in enumerate(self._names) if name == _BASS]] = 0
            loudest = float(powers.max())
            centre = self._names.index(_CENTRE) if _CENTRE in self._names else None
            if loudest < _AUDIBLE:
                return mixed
            if centre is not None and powers[centre] >= CENTRE_SPEAKS * loudest:
                self._chosen = centre
            elif (power := float(np.square(mixed, dtype=np.float64).mean())) < CANCELLED * loudest:
                self._chosen = int(powers.argmax())
                self.cancelled |= power < UNLIKE * float(powers.sum()) / len(powers) ** 2
        if self._chosen is None:
            return mixed
        one: Samples = channels[self._chosen]
        return one


def _joined(resampler: av.AudioResampler, frame: AudioFrame | None) -> Samples:
    """Everything that comes out [channels, n]."""
    parts = [part.to_ndarray() for part in resampler.resample(frame)]
    channels = len(resampler.layout.channels) if resampler.layout is not None else 1
    return np.concatenate(parts, axis=1) if parts else np.empty((channels, 0), np.int16)
