"""One process of the drills: started, killed, frozen and started again on the same port.

Knows programs, signals and ports; nothing of what a process does.
"""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from live_avatar.launcher.child import LaunchError

HOST = "127.0.0.1"
START_S = 120.0
STOP_S = 20.0
_POLL_S = 0.05
# The kernel ends what the drills started when they are killed themselves.
_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


class Process:
    """A program that listens on one port.

    Args:
        name: of the process in tables and logs.
        command: program and arguments.
        port: where it listens.
        log: file that what it prints is appended to.
        environment: added to that of the drills.
    """

    def __init__(
        self, name: str, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.port = port
        self._command = command
        self._log = log
        self._environment = dict(environment or {})
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._running is not None
        return self._running.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs, frozen or not."""
        return self._running is not None and self._running.poll() is None

    @property
    def resident_kb(self) -> int:
        """Memory that it takes, in kB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def start(self) -> None:
        """Starts it; it does not listen yet.  To be called in the main thread, with which the kernel ends it."""
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                [*_WITH_PARENT, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )

    async def wait_listening(self, timeout_s: float = START_S) -> None:
        """Returns when it listens; raises LaunchError where it does not."""
        deadline = time.monotonic() + timeout_s
        while not self._listens():
            if not self.is_alive or time.monotonic() > deadline:
                raise LaunchError(f"{self.name} does not listen on {self.address}; log {self._log}")
            await asyncio.sleep(_POLL_S)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    async def restart(self) -> None:
        """Starts it again after its end; returns when it listens."""
        self.start()
        await self.wait_listening()

    def kill(self) -> None:
        """Ends it at once, also where it is frozen, and waits for its end."""
        self._signal(signal.SIGKILL)
        if self._running is not None:
            self._running.wait(STOP_S)

    def freeze(self) -> None:
        """It does nothing any more, and nobody is notified."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Asks it to end."""
        self._signal(signal.SIGTERM)

    async def wait_ended(self, timeout_s: float = STOP_S) -> bool:
        """Whether it ended by itself in time; it is killed otherwise."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive and time.monotonic() < deadline:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_POLL_S)
        ended = not self.is_alive
        self.kill()
        return ended

    def _signal(self, number: signal.Signals) -> None:
        if self._running is not None and self.is_alive:
            self._running.send_signal(number)
