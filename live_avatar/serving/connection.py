"""One stream to the next service, from its opening to its end.

Knows credits, heartbeats and how a peer is found to be lost; ``link.py`` makes a new one after each end.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import (
    GetServiceInfoRequest,
    ServiceInfo,
    SessionKey,
    StreamBlocksRequest,
    StreamBlocksResponse,
)
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub
from live_avatar.serving.cancellation import CutShortError, endless
from live_avatar.serving.errors import ServiceError, calling, from_rpc_error, stage_lost
from live_avatar.serving.mailbox import Mailbox, MailboxClosedError
from live_avatar.serving.timing import CHANNEL_OPTIONS, HopTiming
from live_avatar.serving.tls import ClientTls, open_channel

QUEUE_SIZE = 64


class Connection:
    """A stream that is opened once, run once and closed once; all calls from one event loop."""

    def __init__(
        self, target: str, hello: StreamBlocksRequest.Hello, timing: HopTiming, tls: ClientTls | None = None
    ) -> None:
        self.services: Sequence[ServiceInfo] = ()
        self.credits = 0
        self._hello = hello
        self._timing = timing
        self._granted = 0
        self._ready = False
        self._outbox: Mailbox[StreamBlocksRequest] = Mailbox(QUEUE_SIZE)
        self._credit = asyncio.Event()
        self._alive = True
        self._channel = open_channel(target, tls, CHANNEL_OPTIONS)
        self._stub = PipelineServiceStub(self._channel)
        self._call = self._stub.StreamBlocks()

    async def open(self) -> None:
        """Says hello and waits for the welcome; raises ServiceError."""
        try:
            async with asyncio.timeout(self._timing.connect_s):
                with calling(self._peer):
                    await self._call.write(StreamBlocksRequest(hello=self._hello))
                    response = await self._read()
        except TimeoutError:
            raise stage_lost(f"{self._peer} gave no welcome within {self._timing.connect_s} s") from None
        if response.WhichOneof("payload") != "welcome":
            raise stage_lost(f"{self._peer} began with {response.WhichOneof('payload')} instead of a welcome")
        self.services = tuple(response.welcome.services)
        self.credits = self._granted = response.welcome.credits
        self._ready = response.welcome.ready
        self._credit.set()

    async def run(self, respond: Callable[[StreamBlocksResponse], None], set_ready: Callable[[bool], None]) -> NoReturn:
        """Lives until the stream breaks, which raises ServiceError; never returns otherwise."""
        set_ready(self._ready)
        try:
            await endless(self._write_all(), self._heartbeats(), self._read_all(respond, set_ready))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, CutShortError) as error:
            raise await self._reason(error) from error

    async def send(self, request: StreamBlocksRequest, still_needed: Callable[[], bool]) -> bool:
        """See ``Link.send``."""
        is_block = request.WhichOneof("payload") == "block"
        try:
            while True:
                if is_block:
                    await self._credit_there()
                await self._outbox.room()
                if not is_block or self.credits > 0:
                    break
        except MailboxClosedError:
            raise stage_lost(f"the link to {self._peer} broke") from None
        if not still_needed():
            return False
        if is_block:
            self.credits -= 1
            request.block.sent_at_ns = time.monotonic_ns()
        self.post(request)
        return True

    def post(self, request: StreamBlocksRequest) -> None:
        """Appends a message to what is to be written; nothing happens after the end.

        A Close takes the place of audio and conditioning that still wait for its session.
        """
        if not self._alive:
            return
        if request.HasField("close"):
            self._withdraw(request.close.key)
        self._outbox.post(request)

    async def fetch_services(self, timeout_s: float = math.inf) -> Sequence[ServiceInfo]:
        """See ``Link.fetch_services``."""
        timeout_s = min(timeout_s, self._timing.silence_s)
        with calling(self._peer):
            answer = await self._stub.GetServiceInfo(GetServiceInfoRequest(), timeout=timeout_s)
        return tuple(answer.services)

    async def close(self) -> None:
        """Ends the stream and wakes all who wait to send.  Idempotent."""
        if not self._alive:
            return
        self._alive = False
        self._outbox.close()
        self._credit.set()
        self._call.cancel()
        try:
            await self._channel.close()
        finally:
            # The traceback of an error may hold this object until the next garbage collection; the socket, which ends
            # with the last of these three, must not wait for that.
            del self._call, self._stub, self._channel

    def _withdraw(self, key: SessionKey) -> None:
        """Drops what waits to be written for a session that is over, unless a block follows that needs it."""
        if not any(request.HasField("block") and request.block.key == key for request in self._outbox):
            self._outbox.withdraw(lambda request: _key(request) == key)

    async def _credit_there(self) -> None:
        while self._alive and self.credits == 0:
            self._credit.clear()
            await self._credit.wait()

    async def _write_all(self) -> None:
        while True:
            await self._call.write(await self._outbox.get())

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._timing.heartbeat_s)
            await self._outbox.put(StreamBlocksRequest(heartbeat=StreamBlocksRequest.Heartbeat()))

    async def _read_all(
        self, respond: Callable[[StreamBlocksResponse], None], set_ready: Callable[[bool], None]
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(self._timing.silence_s):
                    response = await self._read()
            except TimeoutError:
                raise stage_lost(f"{self._peer} said nothing for {self._timing.silence_s} s") from None
            kind = response.WhichOneof("payload")
            if kind == "heartbeat":
                set_ready(await self._receive_heartbeat(response.heartbeat))
                continue
            if kind == "ack":
                self._take_back_credit()
            if kind in ("opened", "ack", "session_failed"):
                respond(response)

    async def _read(self) -> StreamBlocksResponse:
        response = await self._call.read()
        if not isinstance(response, StreamBlocksResponse):
            raise await self._reason(None)
        return response

    async def _receive_heartbeat(self, heartbeat: StreamBlocksResponse.Heartbeat) -> bool:
        """Whether all services from here on are ready; asks who they are whenever they become so."""
        age_s = heartbeat.oldest_running_block_age.ToNanoseconds() / 1e9
        if age_s > self._timing.service_deadline_s:
            raise stage_lost(f"{self._peer} has been at one block for {age_s:.1f} s")
        if heartbeat.ready and not self._ready:
            self.services = await self.fetch_services()
        self._ready = heartbeat.ready
        return self._ready

    def _take_back_credit(self) -> None:
        if self.credits >= self._granted:
            raise stage_lost(f"{self._peer} acknowledged more blocks than it was sent")
        self.credits += 1
        self._credit.set()

    async def _reason(self, error: BaseException | None) -> ServiceError:
        """Why the stream ended: what the server's status says, which only the call knows."""
        if isinstance(error, grpc.aio.AioRpcError):
            return from_rpc_error(error, self._peer)
        call = self._call
        try:
            async with asyncio.timeout(self._timing.heartbeat_s):
                code, details = await call.code(), await call.details()
                initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        except TimeoutError:
            return stage_lost(f"{self._peer} ended the stream without a status")
        if code is grpc.StatusCode.OK:
            return stage_lost(f"{self._peer} ended the stream")
        return from_rpc_error(grpc.aio.AioRpcError(code, initial, trailing, details), self._peer)

    @property
    def _peer(self) -> str:
        """Who is at the other end, for people: addresses are nobody's business but the log's."""
        return self.services[0].name if self.services else "the next service"


def _key(request: StreamBlocksRequest) -> SessionKey | None:
    """The session to whose work a message adds; None where it adds to none."""
    kind = request.WhichOneof("payload")
    return getattr(request, kind).key if kind in ("audio", "conditioning_part") else None
