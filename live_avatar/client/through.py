"""Writes a video as it arrives to a device, a pipe or an open descriptor.

Writing waits for whoever reads, and can be given up from outside.  Knows descriptors; nothing of videos.
"""

import errno
import os
import select
import threading
import time
import weakref

from live_avatar.files import OutputPath
from live_avatar.provenance.facts import MediaFacts

READER_WAIT_S = 60.0
"""Longest wait for somebody to open the other end of a named pipe."""
_POLL_MS = 100
_AT_ONCE = select.PIPE_BUF
"""Bytes that a pipe which is ready takes without waiting."""


class Through:
    """An open output that cannot be replaced.

    Args:
        output: where.

    Raises:
        OSError: it cannot be opened, or nobody reads the pipe.
    """

    def __init__(self, output: OutputPath) -> None:
        self._output = output
        self._given_up = threading.Event()
        self._writing = threading.Lock()
        self._descriptor = _open(output)
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def write(self, data: bytes) -> None:
        """Writes all of ``data``, or what is taken until ``close``; raises OSError."""
        rest = memoryview(data)
        with self._writing:
            while rest and self._wait():
                rest = rest[self._write_some(rest) :]

    def finish(self, facts: MediaFacts | None) -> None:
        """Does nothing: all pieces are where they belong, and what was written cannot be signed any more."""

    def close(self) -> None:
        """Gives up what still waits."""
        self._given_up.set()
        with self._writing:
            self._close()

    def _wait(self) -> bool:
        """Returns when something can be written; False where that was given up."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        while not self._given_up.is_set():
            if poll.poll(_POLL_MS):
                return True
        return False

    def _write_some(self, data: memoryview) -> int:
        """Writes the beginning of ``data``; returns how many bytes were taken."""
        try:
            return os.write(self._descriptor, data[:_AT_ONCE])
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise BrokenPipeError(f"{self._output.given}: its reader has gone") from None
        except OSError as error:
            raise OSError(f"{self._output.given} cannot be written: {error.strerror}") from error


def _open(output: OutputPath) -> int:
    """Opens a device or the descriptor of another process, copies one of our own, waits for a pipe's reader."""
    if (own := output.own_descriptor) is not None:
        return os.dup(own)
    if not output.path.is_fifo():
        return os.open(output.path, os.O_WRONLY | os.O_NOCTTY)
    deadline = time.monotonic() + READER_WAIT_S
    while True:
        try:
            return os.open(output.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        if time.monotonic() > deadline:
            raise OSError(f"{output.given}: nobody reads this pipe; waited for {READER_WAIT_S:.0f} s")
        time.sleep(_POLL_MS / 1000)
