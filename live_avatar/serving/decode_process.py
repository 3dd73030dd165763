"""One decoding process from the side of the service that owns it: start, ask, kill.

Knows frames, sockets and limits; nothing of what is decoded, or of who waits.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from live_avatar.serving.decode_worker import FRAME

_MODULE = "live_avatar.serving.decode_worker"
_KEPT = ("LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME")
"""All that a decoding process gets of its parent's environment: no secret is among it."""
_MAX_HEADER_BYTES = 64 * 1024
_MAX_BODY_BYTES = 64 * 2**20

Answer = tuple[Mapping[str, Any], bytes]


class BrokenProcessError(Exception):
    """The process ended, or answered nonsense."""


class DecodeProcess:
    """A running process that is asked one thing at a time.

    Its ends of a socket pair are its stdin and stdout; nothing else of its parent's is open in it.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.fit = True
        """Waits for the next job; False from the moment it gets one until it has answered in full."""

    @classmethod
    async def start(cls, entries: Sequence[str], memory_bytes: int, cpu_seconds: int) -> "DecodeProcess":
        """A process that is warm: everything its jobs need is loaded.

        Raises:
            BrokenProcessError: it ended at once.
            OSError: the system makes no process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # First the connection, for which this waits: whoever is cancelled here leaves no process behind.
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = _spawn(theirs, [str(os.getpid()), ",".join(entries), str(memory_bytes), str(cpu_seconds)])
            except OSError:
                writer.transport.abort()
                raise
        started = cls(process, reader, writer)
        try:
            await started._receive()
        except BaseException:
            await started.end()
            raise
        return started

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Still running."""
        return self._process.poll() is None

    @property
    def ran_out_of_time(self) -> bool:
        """It has ended since it had computed for too long."""
        return self._process.returncode == -signal.SIGXCPU

    async def ask(self, entry: str, data: bytes, parameters: Mapping[str, Any]) -> Answer:
        """What ``entry`` makes of ``data``: a header and a body.

        Raises:
            BrokenProcessError: the process ended before it had answered.
        """
        self.fit = False
        header = json.dumps({"entry": entry, "parameters": parameters}).encode()
        try:
            self._writer.write(FRAME.pack(len(header), len(data)) + header)
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError as error:
            raise BrokenProcessError("the process takes nothing") from error
        answer = await self._receive()
        self.fit = True
        return answer

    async def end(self) -> None:
        """Kills it and waits until it is gone.  Idempotent."""
        self.fit = False
        self._process.kill()
        self._writer.transport.abort()
        await asyncio.to_thread(self._process.wait)

    async def _receive(self) -> Answer:
        try:
            header_bytes, body_bytes = FRAME.unpack(await self._reader.readexactly(FRAME.size))
            if header_bytes > _MAX_HEADER_BYTES or body_bytes > _MAX_BODY_BYTES:
                raise BrokenProcessError("the process answered nonsense")
            header = json.loads(await self._reader.readexactly(header_bytes))
            return header, await self._reader.readexactly(body_bytes)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise BrokenProcessError("the process ended") from error


def _spawn(channel: socket.socket, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-m", _MODULE, *arguments],
        stdin=channel.fileno(),
        stdout=channel.fileno(),
        env=_environment(),
        start_new_session=True,  # Ctrl-C is the service's to answer
    )


def _environment() -> Mapping[str, str]:
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
