"""Ten-line works, and services made of them: a chain of real servers on real ports in one process."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo, SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksResponse as Response
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub, add_PipelineServiceServicer_to_server
from live_avatar.serving.errors import ServiceError, from_rpc_error
from live_avatar.serving.hop import HopServer
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.link import Link
from live_avatar.serving.observer import BlockReport, NoObserver
from live_avatar.serving.timing import HopTiming
from live_avatar.serving.work import Completion
from live_avatar.v1.avatar_service_pb2 import BlockTiming

SESSION_BYTES = 100
DIGEST = "digest"


class FakeWork:
    """Passes everything on (or, as the last, delivers blocks to a list) and remembers what it did."""

    def __init__(self, last: bool = False) -> None:
        self.last = last
        self.done: list[str] = []
        self.open_sessions: set[tuple[str, int]] = set()
        self.delivered: list[tuple[str, int, list[BlockTiming]]] = []
        self.threads: set[int] = set()
        # Called with "open", "block" or "deliver" and the session id before the work is done.
        self.before: Callable[[str, str], None] = lambda what, session: None

    def open(self, request: StreamBlocksRequest.Open) -> int:
        self._note("open", request.key)
        self.open_sessions.add((request.key.session_id, request.key.epoch))
        return SESSION_BYTES

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        self._note("audio", request.key)
        return ()

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        self._note("condition", part.key)
        if not self.last:
            yield StreamBlocksRequest(conditioning_part=part)

    def block(self, block: StreamBlocksRequest.Block) -> Iterable[StreamBlocksRequest] | Completion:
        self._note("block", block.key, f" {block.index}")
        if not self.last:
            return [StreamBlocksRequest(block=StreamBlocksRequest.Block(key=block.key, index=block.index))]

        async def deliver(timing: BlockTiming) -> None:
            self.before("deliver", block.key.session_id)
            await asyncio.sleep(0)
            self.delivered.append((block.key.session_id, block.index, [*block.timings, timing]))

        return deliver

    def close(self, key: SessionKey) -> int:
        self.done.append(f"close {key.session_id}")
        held = (key.session_id, key.epoch) in self.open_sessions
        self.open_sessions.discard((key.session_id, key.epoch))
        return SESSION_BYTES if held else 0

    def _note(self, what: str, key: SessionKey, more: str = "") -> None:
        self.threads.add(threading.get_ident())
        self.before(what, key.session_id)
        self.done.append(f"{what} {key.session_id}{more}")


class Recorder:
    """Handler of a link, in the place of a gateway."""

    def __init__(self) -> None:
        self.responses: list[Response] = []
        self.downs: list[ServiceError] = []
        self.readiness: list[bool] = []
        self.down_at = 0.0

    def respond(self, response: Response) -> None:
        self.responses.append(response)

    def link_ready(self, ready: bool) -> None:
        self.readiness.append(ready)

    def link_down(self, error: ServiceError) -> None:
        self.down_at = time.monotonic()
        self.downs.append(error)

    @property
    def opened(self) -> list[Response.Opened]:
        return [response.opened for response in self.responses if response.HasField("opened")]

    @property
    def failed(self) -> list[Response.SessionFailed]:
        return [response.session_failed for response in self.responses if response.HasField("session_failed")]

    @property
    def acks(self) -> list[int]:
        return [response.ack.index for response in self.responses if response.HasField("ack")]


class ReportList(NoObserver):
    """Keeps the reports of blocks and the sessions open."""

    def __init__(self) -> None:
        self.reports: list[BlockReport] = []
        self.sessions_open = 0

    def block_finished(self, report: BlockReport) -> None:
        self.reports.append(report)

    def session_opened(self, service: str, key: SessionKey, reserved_bytes: int) -> None:
        self.sessions_open += 1

    def session_closed(self, service: str, key: SessionKey, reserved_bytes: int) -> None:
        self.sessions_open -= 1


@dataclass
class Running:
    """A service under test."""

    hop: HopServer
    server: grpc.aio.Server
    port: int
    observer: ReportList

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Stops listening and ends all streams."""
        await self.server.stop(None)


@asynccontextmanager
async def serving(
    work: FakeWork,
    target: str | None = None,
    *,
    name: str = "service",
    timing: HopTiming | None = None,
    role: "ServiceInfo.Role.ValueType" = ServiceInfo.ROLE_DENOISE_STAGE,
    port: int = 0,
    block_credits: int = 2,
) -> AsyncIterator[Running]:
    """One service on a free port, linked to ``target``."""
    observer = ReportList()
    link = Link(target, peer=name, expected_model_digest=DIGEST, timing=timing) if target else None
    info = ServiceInfo(role=role, name=name, model_digest=DIGEST)
    with ThreadPoolExecutor(1) as device:
        hop = HopServer(info, work, link, device, block_credits=block_credits, timing=timing, observer=observer)
        server = grpc.aio.server(interceptors=[ErrorInterceptor(observer)], options=[("grpc.so_reuseport", 0)])
        add_PipelineServiceServicer_to_server(hop, server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        async with beside(hop.run()):
            try:
                yield Running(hop, server, port, observer)
            finally:
                await server.stop(None)


@asynccontextmanager
async def chain(works: list[FakeWork], timing: HopTiming | None = None) -> AsyncIterator[list[Running]]:
    """Services linked one to the next, the head first; ready."""
    if not works:
        yield []
        return
    async with chain(works[1:], timing) as below:
        target = below[0].target if below else None
        async with serving(works[0], target, name=f"service-{len(works)}", timing=timing) as head:
            await until(lambda: head.hop.ready)
            yield [head, *below]


@asynccontextmanager
async def linked(target: str, timing: HopTiming | None = None) -> AsyncIterator[tuple[Link, Recorder]]:
    """A link in the place of a gateway's, ready."""
    link, recorder = Link(target, peer="gateway", timing=timing), Recorder()
    async with beside(link.run(recorder)):
        await link.wait_ready(5)
        yield link, recorder


class RawStream:
    """A stream on which a test writes what a link never would."""

    def __init__(self, target: str) -> None:
        self._target = target

    async def __aenter__(self) -> "RawStream":
        self._channel = grpc.aio.insecure_channel(self._target)
        self._call = PipelineServiceStub(self._channel).StreamBlocks()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def write(self, request: StreamBlocksRequest) -> None:
        await self._call.write(request)

    async def read(self) -> Response:
        async with asyncio.timeout(20):
            response = await self._call.read()
        assert isinstance(response, Response)
        return response

    async def end(self) -> ServiceError:
        """The error the stream ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(20):
                while await self._call.read():
                    pass
        return from_rpc_error(caught.value)


@asynccontextmanager
async def beside(coroutine: object) -> AsyncIterator[None]:
    """Runs a coroutine that never ends beside the body."""
    assert asyncio.iscoroutine(coroutine)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(coroutine)
        try:
            yield
        finally:
            task.cancel()


async def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Waits until something holds; fails where it does not in time."""
    async with asyncio.timeout(timeout_s):
        # The state lives in other tasks and threads, which know nothing of who waits.
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def key(session: str = "a", epoch: int = 1) -> SessionKey:
    return SessionKey(session_id=session, epoch=epoch)


def opening(session: str = "a", epoch: int = 1) -> StreamBlocksRequest:
    return StreamBlocksRequest(open=StreamBlocksRequest.Open(key=key(session, epoch)))


def closing(session: str = "a", epoch: int = 1) -> StreamBlocksRequest:
    return StreamBlocksRequest(close=StreamBlocksRequest.Close(key=key(session, epoch)))


def block(session: str, index: int, epoch: int = 1) -> StreamBlocksRequest:
    return StreamBlocksRequest(
        block=StreamBlocksRequest.Block(key=key(session, epoch), index=index, traceparent=f"00-{index:032x}-1-01")
    )
