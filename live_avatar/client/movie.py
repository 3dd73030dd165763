"""The pieces of a session's video as one MP4 file that any player opens.

Knows containers, files and pipes; nothing of sessions but what a signature says of them.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, Self

import av

from live_avatar.client.through import Through
from live_avatar.files import OutputPath, check_output, ffmpeg_name, put_in_place
from live_avatar.provenance.facts import MediaFacts

SUFFIXES = (".mp4", ".m4v")
"""Names of MP4 files; a name may also have no suffix."""


Sign = Callable[[Path, Path, MediaFacts], None]
"""Writes a movie with signed metadata to another file, see ``MovieSigning.sign``."""


class _Sink(Protocol):
    def write(self, data: bytes) -> None: ...

    def finish(self, facts: MediaFacts | None) -> None: ...

    def close(self) -> None: ...


class Movie:
    """An MP4 file that is written piece by piece and appears when it is finished; a context manager.

    A file is written beside its place and renamed; where a link leads to it the link stays.  A device, a pipe and
    /dev/stdout get the pieces as they come: a fragmented MP4.  What was begun and not finished is removed.

    Args:
        path: where it appears; folders are made.
        inputs: files it must not take the place of.
        sign: signs a file when it is finished; what is written through is not signed.

    Raises:
        ValueError: the name is that of another kind of file, or of one of ``inputs``.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, inputs: Iterable[Path] = (), sign: Sign | None = None) -> None:
        self.output = check_video_path(path, inputs)
        self.facts: MediaFacts | None = None
        """What a signature says; a file without them is not signed."""
        self._sink: _Sink = Through(self.output) if self.output.is_stream else _Replaced(self.output, sign)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sink.close()

    async def append(self, data: bytes) -> None:
        """Adds the next fragment; raises OSError."""
        await asyncio.to_thread(self._sink.write, data)

    async def finish(self) -> None:
        """Puts the file in its place, its index in front of the media so that it plays while it loads.

        Raises:
            OSError: it cannot be; the message names the file that keeps the fragments.
        """
        await asyncio.to_thread(self._sink.finish, self.facts)


def check_video_path(path: Path, inputs: Iterable[Path] = ()) -> OutputPath:
    """Checks where a video called ``path`` is to be written; changes nothing, and raises like ``Movie``."""
    output = check_output(path, inputs)
    if not output.is_stream and path.suffix and path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is written as MP4: name it {path.with_suffix('.mp4')}")
    if not output.is_stream and path.name == "-":
        raise ValueError("a video goes to a file or, for standard output, to /dev/stdout")
    return output


class _Replaced:
    """A file that is written beside its place."""

    def __init__(self, output: OutputPath, sign: Sign | None) -> None:
        self._output = output
        self._sign = sign
        self._pieces, self._whole = output.beside("pieces"), output.beside("whole")
        self._signed = output.beside("signed")
        self._made = _make_folders(output.path.parent)
        # Also at the end of the program, should a second signal cut its unwinding short.
        self._temporary = [self._pieces, self._whole, self._signed]
        self._remove = weakref.finalize(self, _remove, self._temporary, self._made)
        self._lock = threading.Lock()
        """Held while the file is put in its place: whoever ends the program waits for that."""
        try:
            self._file = self._pieces.open("xb", buffering=0)  # so that nothing is left that closing could lose
        except OSError as error:
            self._remove()
            raise OSError(f"{output.given}: no file can be made in {output.path.parent}: {error.strerror}") from error

    def write(self, data: bytes) -> None:
        """Adds a fragment."""
        with self._lock:
            whole, rest = self._file.tell(), memoryview(data)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError as error:
                self._file.truncate(whole)  # a player may stop at half a fragment
                raise self._kept(error) from error

    def finish(self, facts: MediaFacts | None) -> None:
        """See ``Movie.finish``."""
        with self._lock:
            try:
                self._file.close()
                _remux(self._pieces, self._whole)
                finished = self._whole
                if self._sign is not None and facts is not None:
                    self._sign(self._whole, self._signed, facts)
                    finished = self._signed
                put_in_place(finished, self._output.path)
                self._made.clear()
            except Exception as error:
                raise self._kept(error) from error

    def close(self) -> None:
        """Removes what was begun."""
        with self._lock:
            try:
                self._file.close()
            finally:
                self._remove()

    def _kept(self, error: Exception) -> OSError:
        """What went wrong, after the fragments have got a name of their own that stays."""
        given, reason = self._output.given, getattr(error, "strerror", None) or str(error)
        kept = self._output.path.with_name(f"{self._output.path.stem}.fragments-{os.getpid()}.mp4")
        try:
            self._pieces.rename(kept)
        except OSError:
            self._temporary.remove(self._pieces)
            kept = self._pieces
        self._made.clear()
        return OSError(f"{given} cannot be finished: {reason}; the video up to here is kept in {kept}")


def _remux(pieces: Path, whole: Path) -> None:
    """One index instead of one per fragment, in front of the media."""
    with (
        av.open(ffmpeg_name(pieces)) as source,
        av.open(ffmpeg_name(whole), "w", format="mp4", options={"movflags": "faststart"}) as target,
    ):
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            packet.stream = streams[packet.stream_index]
            target.mux(packet)


def _make_folders(folder: Path) -> list[Path]:
    """Makes ``folder``; returns what was made, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(files: list[Path], folders: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # somebody else has put something there meanwhile
