"""A gateway as a process of its own, beside one in the test's process, with the same store and pipeline."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from live_avatar.proxies import DIRECT
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.clients import Gateway, create_request, gateway
from tests.services.gateway.fake_pipeline import fake_pipeline

if TYPE_CHECKING:
    from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceAsyncStub

ROOT = Path(__file__).parents[4]
TIMEOUT_MS = 500


@dataclass
class Pair:
    """Two gateways."""

    holder: "AvatarServiceAsyncStub"
    process: asyncio.subprocess.Process
    """Of the holder."""
    asked: Gateway

    async def create(self, **config: Any) -> api.CreateSessionResponse:
        """A session that the process holds."""
        return await self.holder.CreateSession(create_request(**config), timeout=30)


@asynccontextmanager
async def pair_of_processes(redis_server: str) -> AsyncIterator[Pair]:
    """Both are ready; the process is killed at the end."""
    settings = {
        "store": {"url": redis_server, "lease_seconds": 60},
        "token_key": "shared",
        "relay": {"timeout_ms": TIMEOUT_MS},
    }
    async with AsyncExitStack() as stack:
        pipeline = await stack.enter_async_context(fake_pipeline(capacity=20))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "live_avatar.services.gateway", "--pipelines", pipeline.address,
            "--store.url", redis_server, "--store.lease-seconds", "60",
            cwd=ROOT, stdout=asyncio.subprocess.PIPE, env={**os.environ, "LIVE_AVATAR__TOKEN_KEY": "shared"},
        )  # fmt: skip
        stack.push_async_callback(_kill, process)
        assert process.stdout is not None
        port = json.loads(await process.stdout.readline())["port"]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=DIRECT))
        stub = AvatarServiceStub(channel)
        asked = await stack.enter_async_context(gateway(pipeline, settings=settings))
        async with asyncio.timeout(30):
            while not (await stub.GetServerInfo(api.GetServerInfoRequest())).session_capacity:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield Pair(stub, process, asked)


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
