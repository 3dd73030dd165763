"""The pieces of a session's video as one MP4 file that any player opens.

Knows containers; nothing of sessions.
"""

import os
from pathlib import Path
from typing import Self

import av


class Movie:
    """A file that is written piece by piece and appears when it is finished; a context manager.

    Args:
        path: where it appears; folders are made.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pieces = path.with_name(f".{path.name}.{os.getpid()}.pieces")
        self._whole = path.with_name(f".{path.name}.{os.getpid()}.whole")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._pieces.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._pieces.unlink(missing_ok=True)
        self._whole.unlink(missing_ok=True)

    def append(self, data: bytes) -> None:
        """Adds the next fragment."""
        self._file.write(data)

    def finish(self) -> None:
        """Puts the file in its place, its index in front of the media so that it plays while it loads."""
        self._file.close()
        with (
            av.open(self._pieces) as source,
            av.open(self._whole, "w", format="mp4", options={"movflags": "faststart"}) as target,
        ):
            streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is None:
                    continue
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
        self._whole.replace(self._path)
