"""Speech from a file: WAV, MP3, FLAC or whatever else FFmpeg reads, as 16-bit samples of one channel.

Knows files alone; nothing of sessions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

from live_avatar.files import ffmpeg_name

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 48_000
CHUNK_S = 0.5
"""Length of a piece, more or less."""
_SAMPLE_BYTES = 2


class SpeechFile:
    """An open file; a context manager, read once.

    Args:
        path: the file.

    Raises:
        ValueError: it holds no sound that can be read.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._readable():
            container = av.open(ffmpeg_name(path))
        self._container: InputContainer = container
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            container.close()
            raise ValueError(f"{path} holds no sound")
        self._stream: AudioStream = stream
        self.rate_hz = stream.rate if MIN_RATE_HZ <= stream.rate <= MAX_RATE_HZ else MAX_RATE_HZ
        """Samples per second of what ``chunks`` yields: the file's own rate where a gateway takes it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    @property
    def duration_s(self) -> float:
        """What the file says of its length; 0 where it does not."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return (self._container.duration or 0) / av.time_base

    def chunks(self) -> Iterator[bytes]:
        """The samples in pieces; raises ValueError where the file is damaged or empty."""
        waiting, smallest = bytearray(), int(CHUNK_S * self.rate_hz) * _SAMPLE_BYTES
        found = False
        for piece in self._pieces():
            waiting += piece
            found = found or bool(piece)
            if len(waiting) >= smallest:
                yield bytes(waiting)
                waiting.clear()
        if waiting:
            yield bytes(waiting)
        if not found:
            raise ValueError(f"{self._path} holds no sound")

    def _pieces(self) -> Iterator[bytes]:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=self.rate_hz)
        with self._readable():
            for frame in self._container.decode(self._stream):
                for resampled in resampler.resample(frame):
                    yield resampled.to_ndarray().tobytes()
            for resampled in resampler.resample(None):
                yield resampled.to_ndarray().tobytes()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            raise
        except av.error.FFmpegError as error:
            raise ValueError(f"{self._path} is no audio file that can be read: {error.strerror}") from None
