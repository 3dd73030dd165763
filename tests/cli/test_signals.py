"""Signals end a command in order."""

import os
import signal
import subprocess
import sys
import threading
import time
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


def start(folder: Path, *arguments: str, modules: Path | None = None) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", START, *arguments], subprocess.PIPE
    environment = {**os.environ, "TMPDIR": str(folder)}
    if modules is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(modules), *filter(None, [environment.get("PYTHONPATH")])])
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def children_of(parent: int) -> set[str]:
    """Ids of the processes that ``parent`` has started."""
    return set(Path(f"/proc/{parent}/task/{parent}/children").read_text().split())


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_services_start_ends_them_and_removes_their_logs(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "generate", "--out", "new/out.mp4", "--layout", "1x1", "--weights", "random")
    deadline = time.monotonic() + LIMIT_S
    while len(children := children_of(process.pid)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert os.listdir(tmp_path) == []


MICROPHONE = """
import time

class RawInputStream:
    def __init__(self, rate, frames, dtype, channels):
        self.frames = frames

    def start(self):
        pass

    def close(self):
        pass

    def read(self, frames):
        time.sleep(frames / 16_000)
        return bytes(2 * frames), False
"""


def test_ctrl_c_ends_a_talk_at_the_microphone_and_its_video_is_finished(tmp_path: Path) -> None:
    modules, here = tmp_path / "modules", tmp_path / "here"
    modules.mkdir()
    here.mkdir()
    (modules / "sounddevice.py").write_text(MICROPHONE)
    gateway, received = fake_gateway(), threading.Event()

    def deliver(one: FakeGateway, requests: Requests) -> Iterator[Response]:
        while len(one.speech) < 32_000:
            one.take(requests)
        received.set()
        yield from one.talk(requests)

    gateway.deliver = deliver
    with serving(gateway) as address:
        process = start(here, "talk", "--out", "out.mp4", "--gateway", address, modules=modules)
        assert received.wait(LIMIT_S)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "out.mp4: H.264 and AAC"
    assert os.listdir(here) == ["out.mp4"]


@pytest.mark.parametrize("command", ["generate", "talk"])
def test_a_recording_that_never_comes_is_not_waited_for(tmp_path: Path, command: str) -> None:
    pipe = tmp_path / "speech"
    os.mkfifo(pipe)
    process = start(tmp_path, command, "--audio", pipe.name, "--out", "out.mp4", "--gateway", "localhost:1")
    with pipe.open("wb"):  # which waits until the command has opened it
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert os.listdir(tmp_path) == ["speech"]
