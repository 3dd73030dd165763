"""Speech from a file: WAV, MP3, FLAC or whatever else FFmpeg reads, as 16-bit samples of one channel.

What decodes is used: nothing is believed that a header says of lengths, and a damaged stretch becomes silence.  Knows
files alone; nothing of sessions.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import chain
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.audio.frame import AudioFrame

from live_avatar.client.mixdown import Mixdown, Samples
from live_avatar.client.sound_frames import SoundFrames
from live_avatar.client.sound_source import SoundSource, readable
from live_avatar.limits import MAX_RATE_HZ, MIN_RATE_HZ

CHUNK_S = 0.5
"""Length of a piece, more or less."""
QUIET_PEAK = 32
"""Of 16-bit samples, -60 dB of full scale: a recording whose loudest sample is below holds no voice."""
LONGEST_KEPT_S = 600.0
"""Most that is decoded ahead."""
_SAMPLE_BYTES = 2
_LEAST_LOST_S = 0.005


class SpeechFile:
    """An open recording; a context manager, read once.

    Args:
        path: a file, a named pipe, ``/dev/stdin`` or the like; it is opened once and never again.

    Raises:
        ValueError: it holds no sound that can be read.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._source = SoundSource(path)
        self._frames = SoundFrames(self._source.container, self._source.stream)
        self._peak = self._samples = 0
        self._ended = False
        self._kept: deque[Samples] = deque()
        """Decoded ahead."""
        try:
            self._reading = iter(self._frames)
            self._lost_first, self._first = self._first_sound()
        except BaseException:
            self._source.__exit__()
            raise
        rate_hz = self._first.sample_rate
        self.rate_hz = rate_hz if MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ else MAX_RATE_HZ
        """Samples per second of what ``chunks`` yields: the file's own rate where a gateway takes it."""
        self._mixdown = Mixdown(self.rate_hz)
        self._decoded = self._decode_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._source.__exit__(*exc)

    def stop(self) -> None:
        """Whoever waits for more of an input that can be read once gets the end of it."""
        self._source.stop()

    @property
    def duration_s(self) -> float:
        """The length: once all is decoded as it is, before as the file says; 0 where it does not."""
        if self._ended:
            return self._samples / self.rate_hz
        stream = self._source.stream
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return (self._source.container.duration or 0) / av.time_base

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was wrong with the recording as far as it was read, each as a sentence without its end."""
        found = []
        if self._frames.lost_s >= _LEAST_LOST_S:
            found.append(f"{self._frames.lost_s:.2f} s of the recording are damaged and stay silent")
        if self._frames.bad_samples:
            found.append(f"{self._frames.bad_samples} samples of the recording are no numbers and were replaced")
        if self._mixdown.cancelled:
            found.append("the channels of the recording cancel each other, so the louder one is used")
        if self._ended and self._peak < QUIET_PEAK:
            found.append("the recording holds no sound above -60 dB, so nobody speaks in the video")
        return tuple(found)

    def fits(self, longest_s: float) -> bool:
        """Whether the recording lasts no longer than ``longest_s``, by decoding that much of it ahead."""
        limit = int(min(longest_s, LONGEST_KEPT_S) * self.rate_hz)
        while not self._ended and self._samples <= limit:
            piece = next(self._decoded, None)
            if piece is not None:
                self._kept.append(piece)
        return self._ended and self._samples <= limit

    def chunks(self) -> Iterator[bytes]:
        """The samples in pieces, what was decoded ahead first; raises ValueError where nothing can be decoded."""
        waiting, smallest = bytearray(), int(CHUNK_S * self.rate_hz) * _SAMPLE_BYTES
        for piece in self._pieces():
            waiting += piece.tobytes()
            if len(waiting) >= smallest:
                yield bytes(waiting)
                waiting.clear()
        if waiting:
            yield bytes(waiting)

    async def read(self) -> AsyncIterator[bytes]:
        """``chunks`` without holding up the event loop; whoever stops early does not wait for input."""
        chunks = self.chunks()
        try:
            while chunk := await asyncio.to_thread(next, chunks, b""):
                yield chunk
        finally:
            self.stop()

    def _pieces(self) -> Iterator[Samples]:
        while self._kept:
            yield self._kept.popleft()
        yield from self._decoded

    def _first_sound(self) -> tuple[list[float], AudioFrame]:
        """What was lost up to the first frame, and that; raises ValueError where there is none."""
        lost = list[float]()
        with readable(self._path):
            for item in self._reading:
                if isinstance(item, AudioFrame):
                    return lost, item
                lost.append(item)
        raise ValueError(f"{self._path} holds no sound")

    def _decode_all(self) -> Iterator[Samples]:
        with readable(self._path):
            for item in chain(self._lost_first, (self._first,), self._reading):
                yield from self._counted(self._silence(item) if isinstance(item, float) else self._mixdown.add(item))
            yield from self._counted(self._mixdown.finish())
        self._source.check()
        self._ended = True

    def _silence(self, seconds: float) -> Iterator[Samples]:
        yield from self._mixdown.finish()
        yield np.zeros(round(seconds * self.rate_hz), np.int16)

    def _counted(self, pieces: Iterator[Samples]) -> Iterator[Samples]:
        for piece in pieces:
            if piece.size:
                self._samples += piece.size
                self._peak = max(self._peak, int(np.abs(piece.astype(np.int32)).max()))
                yield piece
