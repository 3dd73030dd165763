"""Errors of handlers as a client sees them, over a real socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog.testing
from google.protobuf.message import DecodeError

from live_avatar.serving.errors import ServiceError, draining, from_rpc_error
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.observer import NoObserver
from tests.serving.fakes import until

SERVICE = "test.Service"
MAX_BYTES = 1_000


def read(data: bytes) -> bytes:
    """Reads requests, of which some are garbage."""
    if data == b"garbage":
        raise DecodeError("Error parsing message with type 'private.Class'")
    if data == b"no text":
        b"\xff".decode()
    return data


class Calls(NoObserver):
    """Keeps what is told about calls."""

    def __init__(self) -> None:
        self.finished: list[tuple[str, str, float]] = []

    def rpc_finished(self, method: str, code: str, duration_s: float) -> None:
        self.finished.append((method, code, duration_s))


class Behaviour:
    """A service whose request says how it is to fail."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.ended = 0
        self.target = ""
        self.interceptor = ErrorInterceptor()

    async def act(self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        if request == b"known":
            raise ServiceError(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", "no such session")
        if request == b"unknown":
            raise ValueError("secret")
        if request == b"abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
        if request == b"sleep":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if request == b"let go slowly":
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0.5)
                self.ended += 1
        if request == b"broken line":
            raise grpc.aio.InternalError("execute_batch of private.Class")

    async def unary(self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        await self.act(request, context)
        return request

    async def generator(
        self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> AsyncIterator[bytes]:
        yield b"first"
        await self.act(request, context)
        while request == b"endless":
            yield bytes(100_000)
        yield request

    async def reader(self, requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        async for request in requests:
            await self.act(request, context)
            await context.write(request)
            while request == b"endless":
                await context.write(bytes(100_000))

    async def collector(
        self, requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> bytes:
        whole = b""
        async for request in requests:
            await self.act(request, context)
            whole += request
        return whole


@asynccontextmanager
async def served(deadline_s: float = 5.0) -> AsyncIterator[tuple[grpc.aio.Channel, Calls, Behaviour]]:
    calls, behaviour = Calls(), Behaviour()
    behaviour.interceptor = ErrorInterceptor(calls, deadline_s, MAX_BYTES)
    server = grpc.aio.server(interceptors=[behaviour.interceptor])
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(behaviour.unary, read),
        "Generator": grpc.unary_stream_rpc_method_handler(behaviour.generator, read),
        "Reader": grpc.stream_stream_rpc_method_handler(behaviour.reader, read),
        "Collector": grpc.stream_unary_rpc_method_handler(behaviour.collector, read),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    behaviour.target = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(behaviour.target) as channel:
        yield channel, calls, behaviour
    await server.stop(None)


async def call(channel: grpc.aio.Channel, kind: str, request: bytes) -> list[bytes]:
    """Calls one of the four kinds of method with one request; returns its responses."""
    method = f"/{SERVICE}/{kind}"
    makers = {"Unary": channel.unary_unary, "Collector": channel.stream_unary, "Generator": channel.unary_stream}
    make: Any = makers.get(kind, channel.stream_stream)
    calling = make(method)(request if kind in ("Unary", "Generator") else iter([request]))
    return [await calling] if kind in ("Unary", "Collector") else [response async for response in calling]


KINDS = ["Unary", "Generator", "Reader", "Collector"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (b"known", grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
        (b"unknown", grpc.StatusCode.INTERNAL, "INTERNAL"),
        (b"abort", grpc.StatusCode.DATA_LOSS, "DATA_LOSS"),
    ],
)
def test_every_kind_of_call_ends_with_the_right_status(
    kind: str, request_: bytes, code: grpc.StatusCode, reason: str
) -> None:
    async def scenario() -> None:
        async with served() as (channel, calls, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, kind, request_)
            error = from_rpc_error(caught.value)
            assert (error.code, error.reason) == (code, reason)
            assert "secret" not in str(caught.value)
            await until(lambda: len(calls.finished) == 1)
            assert calls.finished[0][:2] == (f"/{SERVICE}/{kind}", code.name)

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_well_passes_untouched(kind: str) -> None:
    async def scenario() -> None:
        async with served() as (channel, calls, _):
            assert (await call(channel, kind, b"fine"))[-1] == b"fine"
            await until(lambda: len(calls.finished) == 1)
            assert calls.finished[0][1] == "OK" and 0 <= calls.finished[0][2] < 5

    asyncio.run(scenario())


def test_a_unary_call_without_a_deadline_gets_one() -> None:
    async def scenario() -> None:
        async with served(deadline_s=0.1) as (channel, _, behaviour):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, "Unary", b"sleep")
            error = from_rpc_error(caught.value)
            assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
            assert behaviour.cancelled == 1

    asyncio.run(scenario())


def test_the_clients_own_deadline_counts_where_it_has_one() -> None:
    async def scenario() -> None:
        async with served(deadline_s=0.05) as (channel, _, behaviour):
            make: Any = channel.unary_unary
            sleeping = make(f"/{SERVICE}/Unary")(b"sleep", timeout=0.3)
            began = asyncio.get_running_loop().time()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await sleeping
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert asyncio.get_running_loop().time() - began > 0.25
            await until(lambda: behaviour.cancelled == 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_cancellation_reaches_the_handler(kind: str) -> None:
    async def scenario() -> None:
        async with served() as (channel, calls, behaviour):
            task = asyncio.create_task(call(channel, kind, b"sleep"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(lambda: behaviour.cancelled == 1)
            await until(lambda: [code for _, code, _ in calls.finished] == ["CANCELLED"])

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (b"garbage", grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED"),
        (b"no text", grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED"),
        (bytes(MAX_BYTES + 1), grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"),
    ],
)
def test_a_request_that_cannot_be_read_is_the_callers_fault(
    kind: str, request_: bytes, code: grpc.StatusCode, reason: str
) -> None:
    async def scenario() -> None:
        async with served() as (channel, calls, _):
            with structlog.testing.capture_logs() as log, pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, kind, request_)
            error = from_rpc_error(caught.value)
            assert (error.code, error.reason, error.retry_after_s) == (code, reason, None)
            assert not any(word in str(caught.value) for word in ("Error parsing", "private", "Unicode", "Unexpected"))
            await until(lambda: [code for _, code, _ in calls.finished] == [code.name])
            assert not [line for line in log if line["log_level"] == "error"]

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["Generator", "Reader"])
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_client_that_leaves_during_a_write_is_no_fault_of_ours(kind: str, how: str) -> None:
    """It comes as a cancellation, as an error of gRPC's own, or as the end of the generator, by chance."""

    async def scenario() -> None:
        async with served() as (_, calls, behaviour):
            for after in (1, 2, 3, 1, 2, 3):
                calls.finished.clear()
                with structlog.testing.capture_logs() as log:
                    await leave(behaviour.target, kind, how, after)
                    await until(lambda: len(calls.finished) == 1)
                assert not [line for line in log if line["log_level"] in ("error", "critical")]
                assert calls.finished[0][1] == "CANCELLED"

    asyncio.run(scenario())


async def leave(target: str, kind: str, how: str, after: int) -> None:
    """Reads some of an endless answer, then goes away while the server writes."""
    async with grpc.aio.insecure_channel(target) as channel:
        make: Any = channel.unary_stream if kind == "Generator" else channel.stream_stream
        calling = make(f"/{SERVICE}/{kind}")(b"endless" if kind == "Generator" else iter([b"endless"]))
        for _ in range(after):
            await calling.read()
        await asyncio.sleep(0.05)
        if how == "cancel":
            calling.cancel()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_that_broke_under_a_handler_shows_nothing_of_the_library(kind: str) -> None:
    async def scenario() -> None:
        async with served() as (channel, calls, _):
            asking = asyncio.create_task(call(channel, kind, b"broken line"))
            await until(lambda: [code for _, code, _ in calls.finished] == ["CANCELLED"])
            asking.cancel()
            [error] = await asyncio.gather(asking, return_exceptions=True)
            assert "private" not in str(error)

    asyncio.run(scenario())


def test_the_end_of_a_server_waits_for_handlers_that_let_go() -> None:
    async def scenario() -> None:
        interceptor, behaviour = ErrorInterceptor(), Behaviour()
        server = grpc.aio.server(interceptors=[interceptor])
        handlers: dict[str, Any] = {"Unary": grpc.unary_unary_rpc_method_handler(behaviour.unary)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            asking = asyncio.create_task(call(channel, "Unary", b"let go slowly"))
            await asyncio.sleep(0.2)
            await server.stop(None)
            assert not await interceptor.wait_idle(0.01)
            assert await interceptor.wait_idle(5)
            assert behaviour.ended == 1
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_a_server_ends_have_a_reason(kind: str) -> None:
    async def scenario() -> None:
        async with served() as (channel, _, behaviour):
            asking = asyncio.create_task(call(channel, kind, b"sleep"))
            await until(lambda: bool(behaviour.interceptor.calls))
            await asyncio.sleep(0.05)
            behaviour.interceptor.end_all(draining("the test has ended"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asking
            error = from_rpc_error(caught.value)
            assert (error.code, error.reason, error.message) == (
                grpc.StatusCode.UNAVAILABLE, "DRAINING", "the test has ended"
            )  # fmt: skip
            assert behaviour.cancelled == 1
            assert await behaviour.interceptor.wait_idle(5)

    asyncio.run(scenario())


def test_an_unknown_method_is_unimplemented() -> None:
    async def scenario() -> None:
        async with served() as (channel, _, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                make: Any = channel.unary_unary
                await make(f"/{SERVICE}/Nothing")(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(scenario())
