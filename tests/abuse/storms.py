"""What one caller can do to all others, each as a process: ``python -m tests.abuse.storms NAME TARGET SECONDS``.

Every storm keeps to the published limits or breaks them in ways that anybody can; none knows how the services work.
"""

import asyncio
import io
import itertools
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

import grpc
import numpy as np
from google.protobuf.field_mask_pb2 import FieldMask
from PIL import Image

from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.abuse.callers import connect
from tests.services.gateway.clients import Request, Talk, create_request, tone

LOWEST_PRIORITY = 19
"""An attacker's machine is another one: it should not take the processors of the services."""
CALL_S = 5.0
MASK = FieldMask(paths=["prompt"])
SILENT_STREAMS, STREAMS_PER_CHANNEL = 900, 90
PORTRAIT_SIDE, PORTRAITS_AT_ONCE, CREATES_AT_ONCE = 1_400, 8, 8
PROMPT = "a person in a red coat talks to the camera in front of a window, number {}, " + "and so on " * 30
GUESSES_PER_SECOND, GUESSES_AT_ONCE = 2_000, 100
Counter = Callable[[], None]
Storm = Callable[[str, Counter], Coroutine[Any, Any, None]]
SendAudio = Callable[[Talk, int], Awaitable[None]]


async def live_flood(target: str, count: Counter, say: SendAudio) -> None:
    """A session, live where there is room, on whose stream something is said until the services end it."""
    async with connect(target) as connection:
        stub = AvatarServiceStub(connection)
        made = await _created(stub)
        async with Talk(stub) as talk:
            await talk.open(made.session_token)
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(_read(talk))
                await _say_all(talk, say, count, reading)


async def _created(stub: Any) -> api.CreateSessionResponse:
    try:
        request = create_request(delivery=api.DELIVERY_LIVE)
        made: api.CreateSessionResponse = await stub.CreateSession(request, timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        made = await stub.CreateSession(create_request(listening=api.LISTENING_STREAMING), timeout=CALL_S)
    return made


async def _say_all(talk: Talk, say: SendAudio, count: Counter, reading: "asyncio.Task[None]") -> None:
    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        for number in itertools.count():
            if reading.done():
                return
            await say(talk, number)
            count()


async def _read(talk: Talk) -> None:
    """Takes what comes and gives the credit back, until the stream ends."""
    with suppress(grpc.aio.AioRpcError, EOFError):
        while True:
            response = await talk.receive(timeout_s=60)
            await talk.grant(int(response.HasField("video_unit")), now=False)


async def updates(target: str, count: Counter) -> None:
    """Prompts, each another one."""

    async def say(talk: Talk, number: int) -> None:
        config = api.SessionConfig(prompt=PROMPT.format(number))
        await talk.say(update=Request.Update(config=config, update_mask=MASK))

    await live_flood(target, count, say)


async def credits(target: str, count: Counter) -> None:
    """Credits for nothing, and reports of nothing."""

    async def say(talk: Talk, number: int) -> None:
        await talk.say(credit=Request.Credit())
        await talk.say(playback_report=Request.PlaybackReport())

    await live_flood(target, count, say)


async def interrupts(target: str, count: Counter) -> None:
    """Barge-ins."""

    async def say(talk: Talk, number: int) -> None:
        await talk.say(interrupt=Request.Interrupt())

    await live_flood(target, count, say)


async def utterances(target: str, count: Counter) -> None:
    """Utterances of one sample, each with a name of its own."""

    async def say(talk: Talk, number: int) -> None:
        await talk.speak(tone(1), utterance=f"utterance {number}")
        await talk.end_utterance(f"utterance {number}")

    await live_flood(target, count, say)


async def unopened(target: str, count: Counter) -> None:
    """Streams on which nothing is ever said; those that end are opened again."""

    async def keep_open(stub: Any) -> None:
        while True:
            call = stub.StreamAvatar()
            count()
            await call.code()
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(SILENT_STREAMS // STREAMS_PER_CHANNEL):
            stub = AvatarServiceStub(connect(target))
            for _ in range(STREAMS_PER_CHANNEL):
                tasks.create_task(keep_open(stub))


async def portraits(target: str, count: Counter) -> None:
    """Sessions with portraits that take long to read."""
    request = create_request()
    request.reference_image = slow_portrait()
    await create_all(target, count, request, PORTRAITS_AT_ONCE)


async def creates(target: str, count: Counter) -> None:
    """Sessions whose stream nobody opens."""
    await create_all(target, count, create_request(), CREATES_AT_ONCE)


async def create_all(target: str, count: Counter, request: api.CreateSessionRequest, at_once: int) -> None:
    """Creates sessions, ``at_once`` at the same time, and closes each again."""

    async def create_on(stub: Any) -> None:
        while True:
            count()
            try:
                made = await stub.CreateSession(request, timeout=CALL_S)
                await stub.CloseSession(api.CloseSessionRequest(session_id=made.session.session_id), timeout=CALL_S)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)

    async with connect(target) as connection, asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(create_on(AvatarServiceStub(connection)))


async def credentials(target: str, count: Counter) -> None:
    """API keys that are not valid, each another one."""

    async def guess(stub: Any, numbers: "itertools.count[int]", began: float) -> None:
        for number in numbers:
            await asyncio.sleep(began + number / GUESSES_PER_SECOND - time.monotonic())
            count()
            key = (("authorization", f"Bearer la_{number:012d}_{'0' * 43}"),)
            with suppress(grpc.aio.AioRpcError):
                await stub.ListSessions(api.ListSessionsRequest(), timeout=CALL_S, metadata=key)

    async with connect(target) as connection, asyncio.TaskGroup() as tasks:
        stub, numbers = AvatarServiceStub(connection), itertools.count()
        for _ in range(GUESSES_AT_ONCE):
            tasks.create_task(guess(stub, numbers, time.monotonic()))


def slow_portrait() -> bytes:
    """A noisy PNG near the limit of bytes: nothing in it is cheap to read."""
    pixels = np.random.default_rng(0).integers(0, 256, (PORTRAIT_SIDE, PORTRAIT_SIDE, 1), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels[..., 0]).convert("RGB").save(data, "PNG", compress_level=1)
    return data.getvalue()


STORMS: dict[str, Storm] = {
    storm.__name__: storm
    for storm in (updates, unopened, credits, interrupts, utterances, portraits, creates, credentials)
}  # fmt: skip


async def run(storm: Storm, target: str, seconds: float) -> int:
    """Runs a storm for so long, again and again where the services end it; returns how often it did what it does."""
    done = Counted()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _for_ever(storm, target, done)
    return done.times


async def _for_ever(storm: Storm, target: str, done: "Counted") -> NoReturn:
    while True:
        # That the services end it is what they are for; it comes again.
        with suppress(grpc.aio.AioRpcError, EOFError):
            await storm(target, done.count)
        await asyncio.sleep(0.1)


class Counted:
    """How often something was done."""

    def __init__(self) -> None:
        self.times = 0

    def count(self) -> None:
        """It was done once more."""
        self.times += 1


def main() -> None:
    """Says "ready", waits for a line on stdin, storms, and prints how often it did what it does."""
    name, target, seconds = sys.argv[1:]
    os.nice(LOWEST_PRIORITY)
    slow_portrait()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(f"{asyncio.run(run(STORMS[name], target, float(seconds)))}\n")


if __name__ == "__main__":
    main()
