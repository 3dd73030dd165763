"""Opens a recording once, whatever it is: a file, a named pipe, standard input.

Input that can be read once is decoded as it comes; formats that need to go back in it are kept in a temporary file of
bounded size first.  Knows containers; nothing of samples.
"""

import os
import select
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Self

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

from live_avatar.files import ffmpeg_name

MAX_KEPT_BYTES = 1 << 30
"""Most of an input that can be read once which is kept on disk."""
_PIECE_BYTES = 1 << 16
_LOOK_S = 0.2
"""How often a reader that waits looks whether it is still needed."""
_CHUNK_HEAD = 8
_NEEDS_SEEKING = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
"""Bytes 4 to 8 of MP4 and QuickTime, whose index may come last."""


class SoundSource:
    """An open recording; a context manager.

    Args:
        path: a file, or anything that can be read once.

    Raises:
        ValueError: it holds no sound that can be read.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._pipe: _Pipe | None = None
        try:
            with readable(path):
                self.container = self._open()
                self.stream = self._audio()
            self.check()
        except BaseException:
            self._stack.close()
            self.check()
            raise

    def check(self) -> None:
        """Raises what ended the reading of an input that can be read once, if not its end."""
        if self._pipe is not None:
            self._pipe.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._stack.close()

    def stop(self) -> None:
        """Whoever waits for more input gets the end of it.  Idempotent."""
        if self._pipe is not None:
            self._pipe.stopped = True

    def _open(self) -> InputContainer:
        if stat.S_ISREG(os.stat(self._path).st_mode) or self._path.is_dir():
            options = {"ignore_length": "1"} if _goes_on_after_its_end(self._path) else {}
            file = av.open(ffmpeg_name(self._path), "r", options=options, metadata_errors="replace")
            return self._stack.enter_context(file)
        self._pipe = self._stack.enter_context(_Pipe(self._path))
        needs_seeking = self._pipe.peek(8)[4:] in _NEEDS_SEEKING
        kept = self._stack.enter_context(self._pipe.keep()) if needs_seeking else self._pipe
        return self._stack.enter_context(av.open(kept, "r", metadata_errors="replace"))

    def _audio(self) -> AudioStream:
        stream = self.container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            raise ValueError(f"{self._path} holds no sound")
        if stream.codec_context is None:
            raise ValueError(f"{self._path} holds sound in a form that cannot be decoded")
        return stream


class _Pipe:
    """Input that can be read once: no ``seek``, so that nobody tries."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._peeked = b""
        self._error: BaseException | None = None
        self.stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, as soon as there are some; none at the end."""
        if self._peeked:
            taken, self._peeked = self._peeked[:size], self._peeked[size:]
            return taken
        try:
            while not self.stopped:
                if select.select([self._file], [], [], _LOOK_S)[0]:
                    return self._file.read(size) or b""
        except BaseException as error:  # noqa: BLE001 - FFmpeg calls this, and would lose it: see check
            self.stopped, self._error = True, error
        return b""

    def check(self) -> None:
        """Raises what ended ``read``: a signal, or an error of the input."""
        if self._error is not None:
            raise self._error

    def peek(self, size: int) -> bytes:
        """The first bytes, which ``read`` gives again."""
        while len(self._peeked) < size:
            waiting, self._peeked = self._peeked, b""
            more = self.read(size - len(waiting))
            self._peeked = waiting + more
            if not more:
                break
        return self._peeked

    def keep(self) -> BinaryIO:
        """A file with everything to the end; raises ValueError where that is too much."""
        kept = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        size = 0
        while piece := self.read(_PIECE_BYTES):
            size += len(piece)
            if size > MAX_KEPT_BYTES:
                kept.close()
                raise ValueError(f"{self._path} goes on for more than {MAX_KEPT_BYTES >> 20} MiB; give a file")
            kept.write(piece)
        kept.seek(0)
        return kept


def _goes_on_after_its_end(path: Path) -> bool:
    """Whether a WAV file has more samples than its header says: what follows them is no chunk."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return False
        while len(head := file.read(_CHUNK_HEAD)) == _CHUNK_HEAD:
            size = int.from_bytes(head[4:], "little")
            if not (head[:4].isascii() and head[:4].decode().isprintable()):
                return True
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What FFmpeg cannot read raises ValueError."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} is no audio file that can be read: {error.strerror}") from None
