"""``live-avatar up``: starting, mending and ending a pipeline."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from typer.testing import CliRunner

from live_avatar.cli import inputs
from live_avatar.cli import up as module
from live_avatar.cli.main import app
from live_avatar.launcher import restarts
from live_avatar.launcher.child import LaunchError, Program

# As from a terminal: what runs in the background of a script ignores Ctrl-C, and so do its children.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from live_avatar.cli.main import app; app()"
)
COMMAND = [sys.executable, "-c", START]
LIMIT_S = 120
END_S = 5


class Up:
    """A running ``live-avatar up``."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "up", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.message: list[str] = []
        self.gateway = ""
        assert self.process.stderr is not None
        self._listener = threading.Thread(target=self.message.extend, args=(self.process.stderr,))
        self._listener.start()

    def wait_gateway(self) -> None:
        """Returns when the gateway's address has been told."""
        assert self.process.stdout is not None
        self.gateway = self.process.stdout.readline().removeprefix("gateway ").strip()

    def children(self) -> dict[int, str]:
        """Processes of services by id, with the name of their module."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                arguments = (stat.parent / "cmdline").read_text().split("\0")
            except (OSError, IndexError):
                continue
            if parent == self.process.pid:
                found[int(stat.parent.name)] = arguments[3]
        return found

    def wait_printed(self, text: str) -> None:
        """Returns when a line with ``text`` has been told."""
        deadline = time.monotonic() + LIMIT_S
        while not any(text in line for line in list(self.message)):
            assert time.monotonic() < deadline, self.message
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> float:
        """Sends a signal; seconds until the end."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(LIMIT_S)
        return time.monotonic() - began

    def close(self) -> None:
        """Leaves nothing open."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path, "--layout", "1x2", "--weights", "random", "--fp8-kv", "--reflection")
    yield running
    running.close()


@pytest.mark.slow
def test_a_killed_service_comes_back_and_ctrl_c_ends_everything(up: Up, tmp_path: Path) -> None:
    up.wait_gateway()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", up.gateway), up.message
    up.wait_printed(inputs.RANDOM_WEIGHTS)
    assert [line.split()[0] for line in up.message[:4]] == [
        "vae-decoder",
        "denoise-stage-0",
        "audio-encoder",
        "gateway",
    ]
    before = up.children()
    modules = [
        "live_avatar.services.audio_encoder",
        "live_avatar.services.denoise_stage",
        "live_avatar.services.gateway",
        "live_avatar.services.vae_decoder",
    ]
    assert sorted(before.values()) == modules
    stage = next(pid for pid, module in before.items() if module == "live_avatar.services.denoise_stage")
    assert b"--kv\0fp8" in Path(f"/proc/{stage}/cmdline").read_bytes()
    os.kill(stage, signal.SIGKILL)
    up.wait_printed("denoise-stage-0 was ended by SIGKILL")
    up.wait_printed(
        "denoise-stage-0 was ended by SIGKILL; log out/logs/denoise-stage-0.log; it is started again (1 of 5"
    )
    with grpc.insecure_channel(up.gateway) as channel:
        assert "live_avatar.v1.AvatarService" in ProtoReflectionDescriptorDatabase(channel).get_services()
    make_when_ready(up.gateway, tmp_path / "out.mp4")
    after = up.children()
    assert sorted(after.values()) == modules
    assert len(before.keys() & after.keys()) == len(modules) - 1
    assert up.end(signal.SIGINT) < END_S
    assert up.process.returncode == 0
    assert not [pid for pid in after if Path(f"/proc/{pid}").exists()]


def make_when_ready(gateway: str, out: Path) -> None:
    """Makes a video as soon as the pipeline is whole again."""
    deadline = time.monotonic() + LIMIT_S
    arguments = ["generate", "--audio", str(inputs.SPEECH), "--out", str(out), "--gateway", gateway]
    while (result := CliRunner().invoke(app, arguments)).exit_code != 0:
        assert "STAGE_LOST" in result.stderr
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert out.exists()


def test_a_preset_without_weights_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "up", "--preset", "S2V_14B"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("live-avatar: vae-decoder ended with code ")
    assert "Traceback" not in done.stderr


class Ended:
    """A service that ends as soon as it is started, or does not start at all."""

    def __init__(self) -> None:
        self.program = Program(name="decoder", module="none", flags=())
        self.process = SimpleNamespace(returncode=1)

    def obituary(self, code: int) -> str:
        return f"decoder ended with code {code}"


class Failing:
    """A pipeline whose decoder keeps ending."""

    def __init__(self) -> None:
        self.restarts = 0

    def ended(self) -> list[Ended]:
        return [Ended()]

    def restart(self, name: str) -> None:
        self.restarts += 1
        if self.restarts == 2:
            raise LaunchError(f"{name} does not listen")


def test_what_keeps_ending_ends_everything_and_says_within_which_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(module, "POLL_S", 0.001)
    pipeline = Failing()
    with pytest.raises(LaunchError, match="decoder ended with code 1; it was started again 5 times within 5 minutes"):
        module._keep_up(pipeline)  # type: ignore[arg-type]
    assert pipeline.restarts == 5
    message = capsys.readouterr().err.splitlines()
    assert "decoder does not listen" in message
    assert message[0] == "decoder ended with code 1; it is started again (1 of 5 times within 5 minutes)"


def test_crashes_that_lie_far_apart_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(time, "sleep", lambda _: None)
    pipeline, counted = Failing(), restarts.Restarts()
    for _ in range(20):
        now_s[0] += 120.0
        module._start_again(pipeline, Ended(), counted)  # type: ignore[arg-type]
    assert pipeline.restarts == 20
