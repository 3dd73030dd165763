"""Honest callers, each as a process: ``python -m tests.abuse.bystanders NAME TARGET``.

``creator`` makes a session now and then, ``viewer`` watches one; each prints what it noticed once stdin ends, as JSON
with times of the machine's monotonic clock.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from live_avatar.v1.media_pb2 import VideoFormat
from tests.abuse.callers import connect
from tests.services.gateway.clients import Talk, create_request, video_format
from tests.services.gateway.live_client import CREDITS, Viewer

CALL_S = 20.0
PAUSE_S = 0.25
LOOK_S = 0.01
Bystander = Callable[[str, asyncio.Event], Coroutine[Any, Any, object]]


async def creator(target: str, over: asyncio.Event) -> list[tuple[float, float]]:
    """When each session was asked for, and the seconds until it was made; minus one where it was refused."""
    noticed = list[tuple[float, float]]()
    async with connect(target) as channel:
        stub = AvatarServiceStub(channel)
        say_ready()
        while not over.is_set():
            began = time.monotonic()
            try:
                made = await stub.CreateSession(create_request(), timeout=CALL_S)
                noticed.append((began, time.monotonic() - began))
                await stub.CloseSession(api.CloseSessionRequest(session_id=made.session.session_id), timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                noticed.append((began, -1.0))
                sys.stderr.write(f"create: {error.code().name} {error.details()}\n")
            await asyncio.sleep(PAUSE_S)
    return noticed


async def viewer(target: str, over: asyncio.Event) -> dict[str, Any]:
    """When the picture stood still, once for each block that came too late, and why the stream ended too early."""
    stalled = list[float]()
    async with connect(target) as channel:
        stub = AvatarServiceStub(channel)
        request = create_request(delivery=api.DELIVERY_LIVE, video=video_format(VideoFormat.ENCODING_H264_ANNEXB))
        made = await stub.CreateSession(request, timeout=CALL_S)
        async with Talk(stub) as talk:
            await talk.open(made.session_token, credits=CREDITS)
            one = Viewer(talk)
            tasks = [asyncio.create_task(one.listen()), asyncio.create_task(one.report_all())]
            await one.until_block(4, timeout_s=30)
            say_ready()
            seen = one.stalls
            while not over.is_set() and not one.ended.is_set():
                await asyncio.sleep(LOOK_S)
                stalled += [time.monotonic()] * (one.stalls - seen)
                seen = one.stalls
                one.received.clear()
            for task in tasks:
                task.cancel()
    return {"stalls": stalled, "ended": "" if over.is_set() else f"the stream ended: {one.failure}"}


def say_ready() -> None:
    """What is noticed counts from now on."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


async def attend(bystander: Bystander, target: str) -> object:
    """What a bystander noticed until stdin ended."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, over.set)
    return await bystander(target, over)


def main() -> None:
    """See the module."""
    name, target = sys.argv[1:]
    noticed = asyncio.run(attend({"creator": creator, "viewer": viewer}[name], target))
    sys.stdout.write(json.dumps(noticed) + "\n")


if __name__ == "__main__":
    main()
