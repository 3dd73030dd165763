"""Services as child processes: real ones, the gateway, which starts fast."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from live_avatar.launcher.child import QUIET_WITH_TENSORS, Child, LaunchError, Program

FLAGS = ("--pipelines", "127.0.0.1:1/127.0.0.1:1", "--server.drain-seconds", "0")
GATEWAY = Program(name="gateway", module="live_avatar.services.gateway", flags=FLAGS)
START_S = 60
END_S = 5

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts children that are gone after the test."""
    started: list[Child] = []

    def make(program: Program = GATEWAY, port: int = 0) -> Child:
        started.append(Child(program, tmp_path / "log", port))
        return started[-1]

    yield make
    for child in started:
        child.kill()
        assert child.reap(END_S)


def runs(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_it_listens_ends_and_begins_again_on_its_port(start: Start) -> None:
    child = start()
    child.wait_listening(START_S)
    assert child.alive and child.port > 0
    child.terminate()
    assert child.reap(END_S)
    assert child.process.returncode == 0
    again = start(port=child.port)
    again.wait_listening(START_S)
    assert again.port == child.port
    again.kill()
    assert again.reap(END_S)
    assert again.obituary(again.process.returncode) == f"gateway was ended by SIGKILL; log {again.log}"


def test_children_get_quiet_threads_and_a_generous_allocator(start: Start) -> None:
    child = start()
    # Popen returns when exec has closed its pipe; the kernel shows the environment a moment later.
    child.wait_listening(START_S)
    environment = Path(f"/proc/{child.process.pid}/environ").read_bytes().decode()
    assert {f"{name}={value}" for name, value in QUIET_WITH_TENSORS.items()} <= set(environment.split("\0"))


def test_a_port_that_is_taken_is_named(start: Start) -> None:
    first = start()
    first.wait_listening(START_S)
    second = start(port=first.port)
    with pytest.raises(LaunchError, match=rf"ended with code 1; cannot listen on 127\.0\.0\.1:{first.port}"):
        second.wait_listening(START_S)


def test_wrong_flags_are_reported_as_the_service_reported_them(start: Start) -> None:
    child = start(Program(name="gateway", module="live_avatar.services.gateway", flags=("--no-such-flag",)))
    with pytest.raises(LaunchError, match=r"gateway ended with code 2; .*--no-such-flag"):
        child.wait_listening(START_S)
    assert "--no-such-flag" in child.last_lines()[-1]


def test_a_service_that_does_not_exist(start: Start) -> None:
    with pytest.raises(LaunchError, match=r"ghost ended with code 1; .*services\.ghost"):
        start(Program(name="ghost", module="live_avatar.services.ghost", flags=())).wait_listening(START_S)


def test_a_fault_of_the_service_itself_is_reported_in_one_sentence(start: Start, tmp_path: Path) -> None:
    child = start(Program(name="gateway", module="live_avatar.services.gateway", flags=("--no-such-flag",)))
    assert child.reap(START_S)
    (tmp_path / "log").write_text(
        json.dumps({"event": "broke", "exception": "Traceback\n  lines\nTypeError: told"}) + "\n"
    )
    child.logged_before = 0
    assert child.obituary(1) == f"gateway ended with code 1; TypeError: told; log {child.log}"


def test_the_cause_is_found_behind_long_lines_and_in_groups_of_errors(start: Start, tmp_path: Path) -> None:
    child = start(Program(name="gateway", module="live_avatar.services.gateway", flags=("--no-such-flag",)))
    assert child.reap(START_S)
    line = {"event": "broke", "exception": "+-----", "reason": "TypeError: told", "note": "x" * 100_000}
    (tmp_path / "log").write_text(json.dumps(line) + "\n")
    child.logged_before = 0
    assert child.obituary(1) == f"gateway ended with code 1; TypeError: told; log {child.log}"


def test_a_service_that_takes_too_long(start: Start) -> None:
    with pytest.raises(LaunchError, match="gateway does not listen after 0 s"):
        start().wait_listening(0)


def test_a_program_that_says_something_else(start: Start) -> None:
    child = start(Program(name="wrong", module="platform", flags=()))
    with pytest.raises(LaunchError, match="instead of where it listens"):
        child.wait_listening(START_S)


def test_only_the_last_start_is_quoted(start: Start) -> None:
    first = start()
    first.wait_listening(START_S)
    first.kill()
    assert first.reap(END_S)
    second = start(Program(name="gateway", module="live_avatar.services.gateway", flags=("--no-such-flag",)))
    with pytest.raises(LaunchError):
        second.wait_listening(START_S)
    assert len(second.last_lines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_it_dies_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from live_avatar.launcher.child import Child, Program\n"
        f"program = Program(name='gateway', module='live_avatar.services.gateway', flags={FLAGS!r})\n"
        "child = Child(program, Path(sys.argv[1]))\n"
        f"child.wait_listening({START_S}); print(child.process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        assert runs(pid)
        os.kill(launcher.pid, signal.SIGKILL)
    deadline = time.monotonic() + END_S
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(pid)


def test_variables_are_withheld_by_the_beginning_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_AVATAR__AUTH__MODE", "keys")
    monkeypatch.setenv("live_avatar__auth__insecure", "1")
    monkeypatch.setenv("LIVE_AVATAR__SERVER__PORT", "1")
    found = Program(name="x", module="x", flags=(), withheld=("LIVE_AVATAR__AUTH__",)).variables()
    assert [name for name in found if name.upper().startswith("LIVE_AVATAR__")] == ["LIVE_AVATAR__SERVER__PORT"]
    assert found["PATH"] == os.environ["PATH"]
    assert "LIVE_AVATAR__AUTH__MODE" in Program(name="x", module="x", flags=()).variables()
