"""Services as real processes, always ended with the test."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class ServiceProcess:
    """``python -m live_avatar.services.NAME`` on a free port."""

    def __init__(self, module: str, *flags: str) -> None:
        command = [sys.executable, "-W", "error", "-m", f"live_avatar.services.{module}", "--server.port", "0", *flags]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LIVE_AVATAR__")}
        environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def target(self) -> str:
        """Its address, once it listens."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        listening = json.loads(line)
        assert listening["event"] == "listening"
        return f"127.0.0.1:{listening['port']}"

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Exit code after SIGTERM, and the lines of the log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, [json.loads(line) for line in log.splitlines()]


@contextmanager
def started(module: str, *flags: str) -> Iterator[ServiceProcess]:
    """A service that is killed at the end, if it still runs."""
    service = ServiceProcess(module, *flags)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.communicate()
