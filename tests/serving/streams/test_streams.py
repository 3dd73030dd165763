"""Both halves of a long-lived stream against each other, with plain bytes as messages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from time import monotonic
from typing import Any, NoReturn

import grpc
import pytest
import structlog

from live_avatar.serving.errors import ServiceError, stage_lost
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.observer import NoObserver
from live_avatar.serving.streams.client import Connection, keep_up
from live_avatar.serving.streams.mailbox import Mailbox
from live_avatar.serving.streams.server import ServerStream
from live_avatar.serving.timing import HopTiming
from tests.serving.fakes import beside, until

METHOD = "/test.Echo/Stream"
FAST = HopTiming(heartbeat_s=0.05, silence_s=1.0)
Context = grpc.aio.ServicerContext[bytes, bytes]
Echo = Callable[[ServerStream[bytes, bytes], Mailbox[bytes], bytes], Awaitable[None]]


async def echo(stream: ServerStream[bytes, bytes], outbox: Mailbox[bytes], request: bytes) -> None:
    """Answers all requests but heartbeats."""
    if request != b"alive":
        outbox.post(request)


@asynccontextmanager
async def serving(answer: Echo = echo, timing: HopTiming = FAST) -> AsyncIterator[str]:
    """A server of such streams; its address."""

    async def handle(requests: object, context: Context) -> None:
        outbox: Mailbox[bytes] = Mailbox(64)
        stream = ServerStream(context, outbox, lambda: b"beat", timing, lambda why: stage_lost(f"the peer {why}"))
        outbox.post(b"welcome to " + (await stream.read() or b"nobody"))
        await stream.run(partial(answer, stream, outbox))

    make: Any = grpc.stream_stream_rpc_method_handler
    server = grpc.aio.server(interceptors=[ErrorInterceptor(NoObserver())])
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: make(handle)})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def connected(target: str, timing: HopTiming = FAST) -> Connection[bytes, bytes]:
    connection: Connection[bytes, bytes] = Connection(target, "the echo", b"alive", timing)
    connection.start(connection.channel.stream_stream(METHOD)())
    return connection


async def end_of(connection: Connection[bytes, bytes], received: list[bytes]) -> ServiceError:
    """Why a stream ended."""

    async def receive(response: bytes) -> None:
        received.append(response)

    with pytest.raises(ServiceError) as caught:
        await connection.run(receive)
    return caught.value


def test_requests_are_answered_in_order_and_both_ends_outlive_their_silence() -> None:
    async def scenario() -> None:
        received: list[bytes] = []
        async with serving() as target:
            connection = connected(target)
            assert await connection.handshake(b"a test") == b"welcome to a test"
            running = asyncio.create_task(end_of(connection, received))
            for number in range(100):
                await connection.outbox.put(b"%d" % number)
            await asyncio.sleep(2 * FAST.silence_s)
            assert not running.done()
            running.cancel()
            await asyncio.wait([running])
            await connection.close()
        assert [item for item in received if item != b"beat"] == [b"%d" % number for number in range(100)]
        assert received.count(b"beat") > 2

    asyncio.run(scenario())


def test_a_server_sends_heartbeats_between_answers_that_never_cease() -> None:
    async def scenario() -> None:
        received: list[bytes] = []
        async with serving() as target:
            connection = connected(target)
            await connection.handshake(b"a test")
            running = asyncio.create_task(end_of(connection, received))
            async with asyncio.timeout(20):
                while received.count(b"beat") < 3:
                    await connection.outbox.put(b"more")
                    await asyncio.sleep(FAST.heartbeat_s / 5)
            running.cancel()
            await asyncio.wait([running])
            await connection.close()
        assert received.count(b"more") > 3

    asyncio.run(scenario())


def test_a_stream_that_the_server_fails_ends_with_its_reason() -> None:
    async def fail(stream: ServerStream[bytes, bytes], outbox: Mailbox[bytes], request: bytes) -> None:
        stream.fail(ServiceError(grpc.StatusCode.ABORTED, "FIRST", "the first reason"))
        stream.fail(ServiceError(grpc.StatusCode.ABORTED, "SECOND", "another one"))

    async def scenario() -> None:
        async with serving(fail) as target:
            connection = connected(target)
            await connection.handshake(b"a test")
            await connection.outbox.put(b"anything")
            assert (await end_of(connection, [])).reason == "FIRST"
            await connection.close()

    asyncio.run(scenario())


def test_a_client_that_falls_silent_is_lost() -> None:
    async def scenario() -> None:
        async with serving(timing=HopTiming(heartbeat_s=0.05, silence_s=0.2)) as target:
            connection = connected(target, HopTiming(heartbeat_s=30.0, silence_s=20.0))
            await connection.handshake(b"a test")
            error = await end_of(connection, [])
            assert (error.reason, error.message) == ("STAGE_LOST", "the peer said nothing for 0.2 s")
            await connection.close()

    asyncio.run(scenario())


def test_a_stream_is_opened_again_after_pauses_that_grow() -> None:
    began: list[float] = []
    timing = HopTiming(backoff_min_s=0.1, backoff_max_s=2.0)

    async def use(connection: Connection[bytes, bytes]) -> NoReturn:
        began.append(monotonic())
        raise stage_lost("it broke at once")

    async def scenario() -> None:
        open_connection: Callable[[], Connection[bytes, bytes]] = partial(
            Connection, "127.0.0.1:1", "the echo", b"alive", timing
        )
        async with beside(keep_up(open_connection, use, timing, structlog.get_logger())):
            await until(lambda: len(began) == 4)
        pauses = [after - before for before, after in pairwise(began)]
        # 0.1, 0.2 and 0.4 s, each cut by half at most.
        assert [pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=True)] == [True] * 3

    asyncio.run(scenario())
