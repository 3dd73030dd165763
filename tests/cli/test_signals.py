"""Signals end a command in order."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..client.fake_gateway import FakeGateway, Requests, Response, fake_gateway, serving

LIMIT_S = 60
# As from a terminal: what runs in the background of a script ignores Ctrl-C, and so do its children.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from live_avatar.cli.main import app; app()"
)


class Stalled:
    """A gateway that takes speech, sends a first piece of video, and then nothing until it is released."""

    def __init__(self) -> None:
        self.gateway = fake_gateway()
        self.gateway.deliver = self.deliver
        self.begun, self.released = threading.Event(), threading.Event()

    def deliver(self, gateway: FakeGateway, requests: Requests) -> Iterator[Response]:
        yield next(gateway.talk(requests))
        self.begun.set()
        self.released.wait(LIMIT_S)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START, *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT], [signal.SIGINT] * 2])
def test_a_signal_leaves_nothing_and_says_which_it_was(tmp_path: Path, numbers: list[signal.Signals]) -> None:
    stalled = Stalled()
    with serving(stalled.gateway) as address:
        process = start(tmp_path, "generate", "--out", "new/out.mp4", "--gateway", address)
        assert stalled.begun.wait(LIMIT_S)
        assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".pieces"]
        for number in numbers:
            process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT_S)
        stalled.released.set()
    assert process.returncode == 128 + numbers[0], errors
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []
    assert stalled.gateway.closed == ["one"] or len(numbers) > 1
