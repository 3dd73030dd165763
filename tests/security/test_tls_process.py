"""A service with TLS as a real process: what keeps it from starting, and what its ports answer."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from live_avatar.pipeline.v1.blocks_pb2 import GetServiceInfoRequest, StreamBlocksRequest
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub

from .installation import DAY, GATEWAY, OURS, PIPELINE, Files, stranger

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts toys, and ends those that a test left behind."""
    running: list[subprocess.Popen[str]] = []

    def begin(*flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.serving.toy_service", *flags]
        pipe = subprocess.PIPE
        env = {key: value for key, value in os.environ.items() if not key.startswith("LIVE_AVATAR__")}
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=env))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def flags_of(files: Files, *, mutual: bool = True) -> list[str]:
    settings = files.server(mutual=mutual, allowed=[GATEWAY] if mutual else [])
    flags = ["--server.tls.certificate", str(settings.certificate), "--server.tls.key", str(settings.key)]
    if mutual:
        flags += ["--server.tls.client-ca", str(settings.client_ca), "--server.tls.allowed-names", GATEWAY]
    return flags


FAULTS: dict[str, tuple[Callable[[Files], None], str]] = {
    "no file": (lambda files: (files.folder / "tls.crt").unlink(), "tls.crt: No such file or directory"),
    "another's key": (
        lambda files: files.write(OURS.issue([PIPELINE], DAY)[0], OURS.issue([PIPELINE], DAY)[1]),
        "tls.key: is not the key of the certificate in",
    ),
    "expired": (lambda files: files.write(*OURS.issue([PIPELINE], timedelta(hours=-1))), "the certificate expired on"),
    "no authority": (lambda files: (files.folder / "ca.crt").unlink(), "ca.crt: No such file or directory"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_cannot_be_used_end_a_start_in_one_line(fault: str, tmp_path: Path, start: Start) -> None:
    files, (spoil, reason) = Files(tmp_path / "tls", [PIPELINE]), FAULTS[fault]
    spoil(files)
    toy = start(*flags_of(files))
    out, log = toy.communicate(timeout=60)
    assert (toy.returncode, out) == (1, "")
    (line,) = (json.loads(line) for line in log.splitlines())
    assert line["event"] == "cannot start"
    assert line["reason"].startswith("server.tls: ")
    assert reason in line["reason"]


def test_halves_of_settings_are_refused(tmp_path: Path, start: Start) -> None:
    toy = start("--server.tls.certificate", str(tmp_path))
    _, log = toy.communicate(timeout=60)
    assert (toy.returncode, log) == (
        2,
        "toy: server.tls: certificate and key belong together: give both or none\n",
    )


def listening(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def ask(channel: grpc.Channel) -> list[grpc.StatusCode]:
    """How health, a call and a stream end."""
    health = health_pb2_grpc.HealthStub(channel)
    service = PipelineServiceStub(channel)
    return [
        code_of(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=5)),  # type: ignore[attr-defined]
        code_of(lambda: service.GetServiceInfo(GetServiceInfoRequest(), timeout=5)),
        code_of(lambda: next(service.StreamBlocks(iter([StreamBlocksRequest()]), timeout=1))),
    ]


OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
UNIMPLEMENTED, DEADLINE = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DEADLINE_EXCEEDED


def test_without_a_certificate_the_health_port_alone_answers(tmp_path: Path, start: Start) -> None:
    toy = start(
        *flags_of(Files(tmp_path / "tls", [PIPELINE])), "--server.health-host", "127.0.0.2", "--server.health-port", "0"
    )
    line = listening(toy)
    main, health = f"127.0.0.1:{line['port']}", f"127.0.0.2:{line['health_port']}"
    with grpc.insecure_channel(main) as plain, grpc.secure_channel(main, stranger()) as encrypted:
        assert ask(plain) == ask(encrypted) == [UNAVAILABLE] * 3
    with grpc.insecure_channel(health) as plain:
        assert ask(plain) == [OK, UNIMPLEMENTED, UNIMPLEMENTED]
    name = ("grpc.ssl_target_name_override", PIPELINE)
    certificate, key = OURS.issue([GATEWAY], DAY)
    ours = grpc.ssl_channel_credentials(OURS.certificate_pem, key, certificate)
    with grpc.secure_channel(main, ours, options=(name,)) as channel:
        assert ask(channel) == [OK, OK, DEADLINE]


def test_metrics_report_when_the_certificate_expires(tmp_path: Path, start: Start) -> None:
    toy = start(*flags_of(Files(tmp_path / "tls", [PIPELINE])), "--telemetry.prometheus-port", "0")
    port = listening(toy)["prometheus_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert "live_avatar_tls_certificate_expiry_timestamp_seconds" in text
    assert 'side="server"' in text
