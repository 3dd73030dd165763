"""What one hop takes: the real link to a real service that drops what it gets, by the size of a block."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from benchmarks.pipeline import importable
from live_avatar.config import S2V_14B
from live_avatar.launcher.child import Child, Program
from live_avatar.launcher.pipeline import HOST
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest, StreamBlocksResponse
from live_avatar.serving.errors import ServiceError, from_session_failed
from live_avatar.serving.freed_memory import keep_freed_memory
from live_avatar.serving.link import Link

BLOCKS = 200
_WARM = 20
_KEY = SessionKey(session_id="hop", epoch=1)
_START_S, _STOP_S, _READY_S, _ANSWER_S = 60.0, 3.0, 10.0, 5.0


class Answers:
    """Owner of the link: a queue of what comes back, with the time at which it came."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[float, StreamBlocksResponse]] = asyncio.Queue()

    def respond(self, response: StreamBlocksResponse) -> None:
        """See ``LinkHandler``."""
        self.queue.put_nowait((time.monotonic(), response))

    def link_ready(self, ready: bool) -> None:
        """See ``LinkHandler``."""

    def link_down(self, error: ServiceError) -> None:
        """See ``LinkHandler``."""

    async def next(self, kind: Literal["opened", "ack"]) -> float:
        """When the next answer came, which must be a ``kind``; raises ServiceError for a session that failed."""
        async with asyncio.timeout(_ANSWER_S):
            at, response = await self.queue.get()
        if response.HasField("session_failed"):
            raise from_session_failed(response.session_failed)
        assert response.HasField(kind), f"{response.WhichOneof('payload')} came instead of {kind}"
        return at


def round_trips(logs: Path, sizes: Sequence[int]) -> dict[int, list[float]]:
    """Seconds from ``Link.send`` to the acknowledgement, for blocks of each size in bytes, one at a time.

    Raises:
        LaunchError: the service did not start.
        ServiceError: it refused a block.
    """
    keep_freed_memory()  # as the services do that send blocks
    flags = ("--role", "end", "--preset", S2V_14B.name)
    with importable():
        child = Child(Program(name="end", module="benchmarks.emulated", flags=flags), logs / "end.log")
    try:
        child.wait_listening(_START_S)
        return asyncio.run(_measure(f"{HOST}:{child.port}", sizes))
    finally:
        child.terminate()
        if not child.reap(_STOP_S):
            child.kill()
            child.reap(_STOP_S)


async def _measure(target: str, sizes: Sequence[int]) -> dict[int, list[float]]:
    link, answers = Link(target, peer="bench"), Answers()
    running = asyncio.create_task(link.run(answers))
    try:
        await link.wait_ready(_READY_S)
        await link.send(StreamBlocksRequest(open=StreamBlocksRequest.Open(key=_KEY)))
        await answers.next("opened")
        return {size: [await _one(link, answers, size) for _ in range(BLOCKS + _WARM)][_WARM:] for size in sizes}
    finally:
        running.cancel()
        await asyncio.wait({running})


async def _one(link: Link, answers: Answers, size: int) -> float:
    request = StreamBlocksRequest(block=StreamBlocksRequest.Block(key=_KEY))
    request.block.latent.data = bytes(size)
    began = time.monotonic()
    await link.send(request)
    return await answers.next("ack") - began
