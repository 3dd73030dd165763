"""One service as a child process that never outlives its parent.

Knows processes, signals and the one line in which a service reports its port; nothing of what services do.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

QUIET: Mapping[str, str] = {
    # Several processes share the cores: threads that spin for each other would starve the rest.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONUNBUFFERED": "1",
}
"""Environment of every service."""
QUIET_WITH_TENSORS: Mapping[str, str] = {
    **QUIET,
    # glibc would give every large tensor back to the system and fetch it again; that costs more than the arithmetic.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Environment of a service that computes with tensors; it keeps the memory it once had."""
_CANNOT_START, _BROKE = "cannot start", "broke"
"""Events of the lines in which a service reports why it ends: its operator's fault, or its own."""
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):  # else it died before the line above
    os.execv(sys.argv[2], sys.argv[2:])
"""
_READ_BYTES = 65_536
_LAST_LINES = 5
_TAIL_BYTES = 131_072
"""Holds the last lines whole, which have a few thousand characters where they hold tracebacks."""


class LaunchError(ChildProcessError):
    """A service did not start, or ended by itself."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run."""

    name: str
    """Of the process in logs and messages."""
    module: str
    flags: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: QUIET_WITH_TENSORS, hash=False)
    """Added to the launcher's own."""
    withheld: Sequence[str] = ()
    """Beginnings of names of the launcher's own variables that it does not get."""

    def variables(self) -> dict[str, str]:
        """Its whole environment."""
        own = {name: value for name, value in os.environ.items() if not name.upper().startswith(tuple(self.withheld))}
        return {**own, **self.environment}


class Child:
    """A running service.

    On Linux the kernel kills it when the thread that made it ends, so make it in one that stays: the main thread.

    Args:
        program: what to run.
        log: file for what it logs; appended to.
        port: where it listens; 0: any free port.
    """

    def __init__(self, program: Program, log: Path, port: int = 0) -> None:
        self.program = program
        self.log = log
        self.port = port
        self.logged_before = log.stat().st_size if log.exists() else 0
        # -P: a folder called services in the working directory must not be taken for ours.
        command = [sys.executable, "-P", "-m", program.module, "--server.port", str(port), *program.flags]
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                _dying_with_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=program.variables(),
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which ends services in order
            )
        assert self.process.stdout is not None, "stdout is a pipe"
        self._stdout: BinaryIO = self.process.stdout  # type: ignore[assignment]

    @property
    def alive(self) -> bool:
        """Still running."""
        return self.process.poll() is None

    def wait_listening(self, timeout_s: float) -> None:
        """Returns when the service listens; ``port`` is its port then.

        Raises:
            LaunchError: it ended before, or took too long.
        """
        deadline = time.monotonic() + timeout_s
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise LaunchError(f"{self.program.name} does not listen after {timeout_s:.0f} s; see {self.log}")
                piece = os.read(self._stdout.fileno(), _READ_BYTES)
                if not piece:
                    raise LaunchError(self.obituary(self.process.wait()))
                received += piece
        self.port = self._read_port(received.partition(b"\n")[0])

    def obituary(self, code: int) -> str:
        """How the service ended, for people; ``code`` as subprocess has it, negative for a signal."""
        if code < 0:
            return f"{self.program.name} was ended by {signal.Signals(-code).name}; log {self.log}"
        return f"{self.program.name} ended with code {code}; {self._last_words()}"

    def last_lines(self) -> list[str]:
        """The last lines it logged."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.logged_before, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]

    def terminate(self) -> None:
        """Asks it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self._signal(signal.SIGKILL)

    def reap(self, timeout_s: float) -> bool:
        """Waits for its end; False where it still runs after ``timeout_s``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        if self.process.returncode is None:
            return False
        self._stdout.close()
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def _read_port(self, line: bytes) -> int:
        try:
            return int(json.loads(line)["port"])
        except (ValueError, KeyError, TypeError):
            record = line.decode(errors="replace")
            raise LaunchError(f"{self.program.name} said {record!r} instead of where it listens") from None

    def _last_words(self) -> str:
        """Why it ended, as it said itself, or the last line it logged."""
        lines = [line.strip() for line in self.last_lines() if line.strip()]
        for line in reversed(lines):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                if record["event"] == _CANNOT_START:
                    return str(record["reason"])
                if record["event"] == _BROKE:
                    reason = record.get("reason") or str(record["exception"]).splitlines()[-1]
                    return f"{reason}; log {self.log}"
        return lines[-1] if lines else f"it logged nothing ({self.log})"


def _dying_with_parent(command: Sequence[str]) -> Sequence[str]:
    """``command`` as a child that dies with its parent, even if that is killed; only Linux has it.

    Nothing else holds then: no handler runs in a killed launcher, and the services would keep their memory and ports.
    A wrapper asks the kernel for it and becomes the program, since what runs between a fork and its exec may crash
    where the parent has threads of gRPC.
    """
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
