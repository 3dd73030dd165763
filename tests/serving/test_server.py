"""The life of a server, as real processes: listen, health, drain, end, and one line for each way not to start."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from live_avatar.pipeline.v1.blocks_pb2 import GetServiceInfoRequest
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub

ROOT = Path(__file__).parents[2]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ("startup", "readiness", "liveness", "")

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts toys, and ends those that a test left behind."""
    running: list[subprocess.Popen[str]] = []

    def begin(*flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-m", "tests.serving.toy_service", *flags]
        pipe = subprocess.PIPE
        env = {key: value for key, value in os.environ.items() if not key.startswith("LIVE_AVATAR__")}
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=env))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def listening(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    assert line["event"] == "listening"
    return line


def ended(process: subprocess.Popen[str], within_s: float = 10) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit code, stdout and the log, of which every line is JSON."""
    out, err = process.communicate(timeout=within_s)
    return process.returncode, out, [json.loads(line) for line in err.splitlines()]


def health(port: int, name: str, within_s: float = 5) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status: int = stub.Check(  # type: ignore[attr-defined]
            health_pb2.HealthCheckRequest(service=name), timeout=within_s, wait_for_ready=True
        ).status
    return status


def eventually(check: Callable[[], bool], within_s: float = 5) -> None:
    end = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_serves_says_so_and_ends_with_code_0(start: Start) -> None:
    toy = start("--telemetry.prometheus-port", "0")
    line = listening(toy)
    assert (line["service"], line["pid"], line["host"]) == ("toy", toy.pid, "127.0.0.1")
    with grpc.insecure_channel(f"127.0.0.1:{line['port']}") as channel:
        assert PipelineServiceStub(channel).GetServiceInfo(GetServiceInfoRequest(), timeout=5).ready
    eventually(lambda: [health(line["port"], name) for name in NAMES] == [SERVING] * 4)
    with urllib.request.urlopen(f"http://127.0.0.1:{line['prometheus_port']}/metrics", timeout=5) as answer:
        assert 'method="/live_avatar.pipeline.v1.PipelineService/GetServiceInfo"' in answer.read().decode()
    toy.send_signal(signal.SIGTERM)
    code, out, log = ended(toy)
    assert (code, out) == (0, "")
    assert [entry["event"] for entry in log] == ["listening", "draining", "freed", "stopped"]
    assert (log[0]["port"], log[0]["preset"], log[0]["service"]) == (line["port"], "TINY", "toy")


def test_interrupt_from_the_keyboard_ends_it_too(start: Start) -> None:
    toy = start()
    listening(toy)
    toy.send_signal(signal.SIGINT)
    assert ended(toy)[0] == 0


def test_health_port_answers_while_the_service_loads_and_a_signal_ends_that(start: Start) -> None:
    port = free_port()
    toy = start("--fault", "slow-load", "--server.health-port", str(port))
    assert [health(port, name, 20) for name in NAMES] == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]
    toy.send_signal(signal.SIGTERM)
    code, out, log = ended(toy)
    assert (code, out, log[-1]["event"]) == (0, "", "stopped before it listened")


def test_readiness_follows_the_service(start: Start) -> None:
    line = listening(start("--fault", "not-ready", "--server.health-port", "0"))
    for port in (line["port"], line["health_port"]):
        assert [health(port, name) for name in NAMES] == [SERVING, NOT_SERVING, SERVING, NOT_SERVING]


def test_drain_is_not_ready_at_once_lives_on_and_ends_with_the_work(start: Start) -> None:
    toy = start("--drain-takes", "1.5")
    port = listening(toy)["port"]
    eventually(lambda: health(port, "readiness") == SERVING)
    toy.send_signal(signal.SIGTERM)
    eventually(lambda: health(port, "readiness") == NOT_SERVING, within_s=1)
    assert health(port, "liveness") == SERVING
    assert ended(toy)[0] == 0


@pytest.mark.parametrize("grace", ["limit", "second signal"])
def test_drain_is_cut_short(start: Start, grace: str) -> None:
    toy = start("--drain-takes", "60", "--server.drain-seconds", "0.5" if grace == "limit" else "60")
    port = listening(toy)["port"]
    toy.send_signal(signal.SIGTERM)
    eventually(lambda: health(port, "readiness") == NOT_SERVING)
    if grace == "second signal":
        toy.send_signal(signal.SIGTERM)
    code, _, log = ended(toy, within_s=5)
    assert code == 0
    assert "drain cut short" in [entry["event"] for entry in log]


def test_nothing_is_freed_before_the_calls_that_use_it_have_let_go(start: Start) -> None:
    toy = start("--server.drain-seconds", "0")
    with grpc.insecure_channel(f"127.0.0.1:{listening(toy)['port']}") as channel:
        call = PipelineServiceStub(channel).StreamBlocks(iter(()))
        time.sleep(0.5)  # the call has reached its handler
        toy.send_signal(signal.SIGTERM)
        code, _, log = ended(toy)
        call.cancel()
    events = [entry["event"] for entry in log]
    assert code == 0 and events.index("let go") < events.index("freed")


def services(port: int) -> set[str]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return set(ProtoReflectionDescriptorDatabase(channel).get_services())


def test_reflection_only_where_asked_for(start: Start) -> None:
    off, on = start(), start("--server.reflection")
    with pytest.raises(grpc.RpcError) as caught:
        services(listening(off)["port"])
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert {"live_avatar.pipeline.v1.PipelineService", "grpc.health.v1.Health"} <= services(listening(on)["port"])


@pytest.mark.parametrize("flag", ["--server.port", "--server.health-port", "--telemetry.prometheus-port"])
def test_taken_port_is_one_readable_line(start: Start, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, log = ended(start(flag, str(port)))
    assert (code, out, len(log)) == (1, "", 1)
    assert log[0]["event"] == "cannot start"
    assert f"127.0.0.1:{port}" in log[0]["reason"]
    assert "in use" in log[0]["reason"]


def test_address_of_another_machine_is_one_readable_line(start: Start) -> None:
    code, _, log = ended(start("--server.host", "192.0.2.1"))
    assert (code, len(log)) == (1, 1)
    assert "192.0.2.1" in log[0]["reason"]


def test_bad_weights_are_one_readable_line(start: Start) -> None:
    code, out, log = ended(start("--fault", "weights"))
    assert (code, out, len(log)) == (1, "", 1)
    assert log[0]["reason"] == "weights: dit.safetensors: truncated"
    assert "exception" not in log[0]


def test_bad_settings_are_one_readable_line(start: Start) -> None:
    out, err = (toy := start("--server.port", "many")).communicate(timeout=10)
    assert (toy.returncode, out, err.count("\n")) == (2, "", 1)
    assert "server.port" in err


@pytest.mark.parametrize("fault", ["bug", "late-bug"])
def test_our_own_bug_ends_it_with_a_traceback_in_one_line(start: Start, fault: str) -> None:
    code, _, log = ended(start("--fault", fault))
    assert code == 1
    assert log[-1]["event"] == "broke"
    assert "Traceback" in log[-1]["exception"]
    assert log[-1]["reason"] == {"bug": "KeyError: 'a bug'", "late-bug": "ZeroDivisionError: division by zero"}[fault]
