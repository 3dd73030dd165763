"""One decoding process from the side of the service that owns it: start, ask, kill.

Knows frames, pipes and limits; nothing of what is decoded, or of who waits.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
    """A running process that is asked one thing at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.fit = True
        """Waits for the next job; False from the moment it gets one until it has answered in full."""

    @classmethod
    async def start(cls, entries: Sequence[str], memory_bytes: int) -> "DecodeProcess":
        """A process that is warm: everything its jobs need is loaded.

        Raises:
            BrokenProcessError: it ended at once.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-W", "ignore", "-m", _MODULE, str(os.getpid()), ",".join(entries), str(memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is the service's to answer
        )  # fmt: skip
        started = cls(process)
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
        return self._process.returncode is None

    async def ask(self, entry: str, data: bytes, parameters: Mapping[str, Any]) -> Answer:
        """What ``entry`` makes of ``data``: a header and a body.

        Raises:
            BrokenProcessError: the process ended before it had answered.
        """
        self.fit = False
        header = json.dumps({"entry": entry, "parameters": parameters}).encode()
        stdin = self._process.stdin
        assert stdin is not None, "stdin is a pipe"
        try:
            stdin.write(FRAME.pack(len(header), len(data)) + header)
            stdin.write(data)
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise BrokenProcessError("the process takes nothing") from error
        answer = await self._receive()
        self.fit = True
        return answer

    async def end(self) -> None:
        """Kills it and waits until it is gone.  Idempotent."""
        self.fit = False
        if self.alive:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    async def _receive(self) -> Answer:
        stdout = self._process.stdout
        assert stdout is not None, "stdout is a pipe"
        try:
            header_bytes, body_bytes = FRAME.unpack(await stdout.readexactly(FRAME.size))
            if header_bytes > _MAX_HEADER_BYTES or body_bytes > _MAX_BODY_BYTES:
                raise BrokenProcessError("the process answered nonsense")
            header = json.loads(await stdout.readexactly(header_bytes))
            return header, await stdout.readexactly(body_bytes)
        except (asyncio.IncompleteReadError, ConnectionResetError, ValueError) as error:
            raise BrokenProcessError("the process ended") from error


def _environment() -> Mapping[str, str]:
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
