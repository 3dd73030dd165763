"""What becomes of live sessions when a gateway or the store is lost."""

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.clients import Talk, create_request, gateway
from tests.services.gateway.fake_pipeline import FakePipeline, fake_pipeline
from tests.services.gateway.live_client import viewer
from tests.services.processes import ServiceProcess, started

pytestmark = pytest.mark.alone


@contextmanager
def redis_at(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real server, empty, once it listens."""
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not answers(port):
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_store_that_comes_back_empty_ends_no_live_session_and_new_ones_begin(tmp_path: Path) -> None:
    port = free_port()

    async def scenario() -> None:
        settings = {"store": {"url": f"redis://127.0.0.1:{port}/0", "lease_seconds": 0.9}}
        async with (
            fake_pipeline() as pipeline,
            gateway(pipeline, settings=settings) as running,
            viewer(running) as one,
        ):
            await one.until_block(4)
            server.kill()
            server.wait(10)
            with redis_at(port, tmp_path):
                # A renewal each third of a lease: by then it was stored anew, or lost.
                await one.until_block(one.units()[-1].block_index + 5)
                async with viewer(running) as another:
                    await another.until_block(2)
                assert not one.ended.is_set()
                await one.finish()

    with redis_at(port, tmp_path) as server:
        asyncio.run(scenario())


async def talk_until_killed(stub: Any, pipeline: FakePipeline, process: ServiceProcess) -> None:
    async with asyncio.timeout(20):
        while not (await stub.GetServerInfo(api.GetServerInfoRequest())).session_capacity:  # noqa: ASYNC110 - it is far away
            await asyncio.sleep(0.05)
    made = await stub.CreateSession(create_request(delivery=api.DELIVERY_LIVE), timeout=10)
    async with Talk(stub) as talk:
        await talk.open(made.session_token)
        while (await talk.receive()).video_unit.block_index < 2:
            pass
        assert pipeline.sessions_held == 3
        process.process.send_signal(signal.SIGKILL)
        assert (await talk.failure()).code is grpc.StatusCode.UNAVAILABLE


def test_a_killed_gateway_leaves_no_orphan() -> None:
    async def scenario() -> None:
        async with fake_pipeline() as pipeline:
            with started("gateway", "--pipelines", pipeline.address) as process:
                target = await asyncio.to_thread(process.target)
                async with grpc.aio.insecure_channel(target) as channel:
                    stub = AvatarServiceStub(channel)
                    await talk_until_killed(stub, pipeline, process)
            async with asyncio.timeout(10):
                while pipeline.sessions_held:  # noqa: ASYNC110 - the pipeline knows nothing of who waits
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())
