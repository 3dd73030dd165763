"""A system that is described by a file: the gateway serves it where it was told of it, and no other."""

import time
from pathlib import Path

import grpc

from live_avatar.launcher.child import Program
from live_avatar.v1.avatar_service_pb2 import GetServerInfoRequest, GetServerInfoResponse
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub

from .harness.processes import DECODER, ENCODER, Processes, address, processes
from .harness.reference import SMALL

SETTLED_S = 20.0


def server_info(pipeline: Processes, logs: Path, wanted: str, *flags: str) -> GetServerInfoResponse:
    """What a gateway in front of ``pipeline`` says once ``wanted`` is in its answer."""
    ends = f"{pipeline.address(ENCODER)}/{pipeline.address(DECODER)}"
    gateway = Program(name="gateway", module="live_avatar.services.gateway", flags=("--pipelines", ends, *flags))
    with processes(logs) as running:
        running.start({gateway: 0})
        with grpc.insecure_channel(address(running["gateway"].port)) as channel:
            return settled(AvatarServiceStub(channel), wanted)


def settled(gateway: AvatarServiceStub, wanted: str) -> GetServerInfoResponse:
    """The gateway's answer with ``wanted`` in it."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        info = gateway.GetServerInfo(GetServerInfoRequest(), timeout=5)
        if wanted in str(info):
            return info
        assert time.monotonic() < deadline, info
        time.sleep(0.1)


def test_a_gateway_that_knows_the_file(pipeline: Processes, small_file: Path, tmp_path: Path) -> None:
    info = server_info(pipeline, tmp_path, "session_capacity", "--preset-file", str(small_file))
    assert info.preset == SMALL.name
    assert info.session_capacity > 0


def test_a_gateway_that_does_not(pipeline: Processes, tmp_path: Path) -> None:
    info = server_info(pipeline, tmp_path, "unknown preset")
    assert info.session_capacity == 0
