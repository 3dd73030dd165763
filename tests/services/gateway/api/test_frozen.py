"""A frozen process is noticed by whoever it talks to: a gateway by its clients, a client by its gateway."""

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from live_avatar.client import AvatarClient, AvatarError, SessionOptions
from live_avatar.proxies import DIRECT
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.clients import RATE_HZ, create_request, portrait, tone
from tests.services.gateway.fake_pipeline import fake_pipeline

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[4]
NOTICED_S = 10.0
CLIENT_NOTICED_S = 20.0
"""The server's pings may be answered late on a busy machine: 2 s to the next and 10 s for its answer."""
PINGS = (
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""What a client sets that is not ours, as docs/live.md says."""
OPTIONS = SessionOptions(sample_rate_hz=RATE_HZ, listening="streaming")
A_CLIENT = """
import asyncio, sys
from live_avatar.client import AvatarClient
from tests.services.gateway.clients import portrait
from tests.services.gateway.api.test_frozen import OPTIONS

async def main():
    async with AvatarClient(sys.argv[1]) as client:
        session = await client.create_session(portrait(), OPTIONS)
        async with session.stream(resume=False) as stream:
            print("open", flush=True)
            async for result in stream:
                pass

asyncio.run(main())
"""


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[tuple[Process, str]]:
    """A Python program as a process of its own, and the first line that it prints."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode()
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def gateway_process() -> AsyncIterator[tuple[str, Process]]:
    """A gateway that is ready; its address and the process."""
    flags = ("--server.host", "127.0.0.1", "--server.port", "0", "--server.drain-seconds", "0", "--disclosure.text", "")
    async with (
        fake_pipeline() as pipeline,
        running("-m", "live_avatar.services.gateway", "--pipelines", pipeline.address, *flags) as (process, line),
    ):
        target = f"127.0.0.1:{json.loads(line)['port']}"
        await sessions_open(target, 0)
        yield target, process


async def sessions_open(target: str, count: int) -> None:
    """Returns once the gateway takes sessions and has ``count`` of them."""
    async with AvatarClient(target) as client:
        while True:
            info = await client.server_info()
            if info.session_capacity and info.sessions_open == count:
                return
            await asyncio.sleep(0.05)


async def noticed(waiting: Callable[[], Awaitable[object]]) -> tuple[grpc.StatusCode, float]:
    """The code with which something that waits ends, and after how many seconds."""
    began = time.monotonic()
    try:
        await waiting()
    except AvatarError as error:
        return error.code, time.monotonic() - began
    except grpc.aio.AioRpcError as error:
        return error.code(), time.monotonic() - began
    raise AssertionError("a frozen gateway answered")


def test_a_frozen_gateway_is_noticed_by_every_client() -> None:
    """Streams that read, streams that only write, and calls under way; ours and one that sets what the page says."""

    async def scenario() -> list[tuple[grpc.StatusCode, float]]:
        async with (
            gateway_process() as (target, process),
            AvatarClient(target) as client,
            grpc.aio.insecure_channel(target, options=(*DIRECT, *PINGS)) as channel,
        ):
            stub = AvatarServiceStub(channel)
            reader = await client.create_session(portrait(), OPTIONS)
            writer = await client.create_session(portrait(), OPTIONS)
            made = await stub.CreateSession(create_request(), timeout=10)
            raw = stub.StreamAvatar()
            await raw.write(
                api.StreamAvatarRequest(open=api.StreamAvatarRequest.Open(session_token=made.session_token))
            )
            await raw.read()
            async with reader.stream(resume=False) as reading, writer.stream(resume_s=0.1) as writing:

                async def speak() -> None:
                    while True:
                        await writing.send_audio(tone(RATE_HZ))
                        await asyncio.sleep(0.2)

                # The pings of a client that asks for them every three seconds are no reason to hang up.
                await asyncio.sleep(7)
                process.send_signal(signal.SIGSTOP)
                waits: list[Callable[[], Awaitable[object]]] = [lambda: anext(reading), speak, raw.read]
                waits.append(lambda: stub.CreateSession(create_request(), timeout=60))
                waits.append(lambda: client.create_session(portrait(), OPTIONS))
                return list(await asyncio.gather(*map(noticed, waits)))

    outcomes = asyncio.run(scenario())
    assert [code for code, _ in outcomes] == [grpc.StatusCode.UNAVAILABLE] * 5
    assert max(seconds for _, seconds in outcomes) < NOTICED_S


def test_a_frozen_client_loses_its_session() -> None:
    async def scenario() -> None:
        async with gateway_process() as (target, _), running("-c", A_CLIENT, target) as (process, line):
            assert line == "open\n"
            await sessions_open(target, 1)
            process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(CLIENT_NOTICED_S):
                await sessions_open(target, 0)

    asyncio.run(scenario())
