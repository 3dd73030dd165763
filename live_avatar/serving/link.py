"""Blocks over the calling half of a stream: one stream to the next service, kept up for ever.

Knows hello, credits and readiness; knows nothing of sessions.  Used by the gateway (to the head of a pipeline) and by
every service but the last.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import NoReturn, Protocol, TypeAlias

import structlog

from live_avatar.pipeline.v1.blocks_pb2 import (
    GetServiceInfoRequest,
    ServiceInfo,
    SessionKey,
    StreamBlocksRequest,
    StreamBlocksResponse,
)
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub
from live_avatar.serving.errors import ServiceError, calling, stage_lost
from live_avatar.serving.observer import NoObserver, Observer
from live_avatar.serving.streams.client import Connection, as_lost, keep_up
from live_avatar.serving.streams.mailbox import MailboxClosedError, always
from live_avatar.serving.timing import SERVED_VERSIONS, HopTiming
from live_avatar.serving.tls import ClientTls

_NEXT_SERVICE = "the next service"
_HEARTBEAT = StreamBlocksRequest(heartbeat=StreamBlocksRequest.Heartbeat())
_Connection: TypeAlias = Connection[StreamBlocksRequest, StreamBlocksResponse]


class LinkHandler(Protocol):
    """Who owns a link.  Called in the event loop; must neither wait nor raise."""

    def respond(self, response: StreamBlocksResponse) -> None:
        """An Opened, Ack or SessionFailed came up; the link has counted the credit of an Ack already."""

    def link_ready(self, ready: bool) -> None:
        """``Link.ready`` or ``Link.draining`` changed."""

    def link_down(self, error: ServiceError) -> None:
        """The stream broke: all sessions sent down it are lost.  Called once per stream that had been up."""


class Link:
    """One long-lived stream to ``target`` that reconnects until ``run`` is cancelled.

    Args:
        target: address of the next service.
        peer: name of this service, for the other side's log.
        expected_model_digest: digest the other side must have; empty: any.
        timing: waits.
        observer: receives events of ``link_changed`` under the name ``peer``.
        tls: of the connection; None: plain text.
    """

    def __init__(
        self,
        target: str,
        *,
        peer: str,
        expected_model_digest: str = "",
        timing: HopTiming | None = None,
        observer: Observer | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self.target = target
        self._peer = peer
        self._hello = StreamBlocksRequest.Hello(peer=peer, expected_model_digest=expected_model_digest)
        self._versions = cycle(SERVED_VERSIONS)
        self._hello.protocol_version = next(self._versions)
        self._timing = timing or HopTiming()
        self._observer = observer or NoObserver()
        self._tls = tls
        self._connection: _Connection | None = None
        self._services: Sequence[ServiceInfo] = ()
        self._credits = self._granted = 0
        self._ready = asyncio.Event()
        self._draining = False
        self._log = structlog.get_logger(__name__).bind(service=peer, target=target)

    @property
    def up(self) -> bool:
        """The stream stands (the services behind it may still be missing)."""
        return self._connection is not None

    @property
    def ready(self) -> bool:
        """The stream stands and all services behind it accept sessions."""
        return self._ready.is_set()

    @property
    def draining(self) -> bool:
        """A service behind the stream waits for its sessions to leave, and ends then."""
        return self._draining

    @property
    def services(self) -> Sequence[ServiceInfo]:
        """The next service and those behind it, in order, as of the last time ``ready`` rose; empty while down."""
        return self._services

    @property
    def credits(self) -> int:
        """Blocks that may be sent at once."""
        return self._credits

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns when the link is ready; raises ServiceError STAGE_LOST if it is not within ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            raise stage_lost(f"the next service is not ready after {timeout_s} s", self.target) from None

    async def send(self, request: StreamBlocksRequest, still_needed: Callable[[], bool] = always) -> bool:
        """Sends one message in order; a block waits for its credit first, all wait for room.

        Args:
            request: anything but Hello and Heartbeat.
            still_needed: asked once, at the last moment; where it says no, nothing is sent and no credit is used.

        Returns:
            Whether the message was sent.

        Raises:
            ServiceError: STAGE_LOST where the link is down or breaks while this waits.
        """
        connection, is_block = self._standing(), request.HasField("block")
        try:
            await connection.outbox.room(self._has_credit if is_block else always)
        except MailboxClosedError:
            raise stage_lost(f"the link to {connection.peer} broke") from None
        if not still_needed():
            return False
        if is_block:
            self._credits -= 1
            request.block.sent_at_ns = time.monotonic_ns()
        self.post(request)
        return True

    def post(self, request: StreamBlocksRequest) -> None:
        """Sends one control message in order without waiting, for example a Close; nothing happens while down.

        A Close takes the place of audio and conditioning that still wait for its session.  The caller bounds how many
        it posts.
        """
        if self._connection is None or self._connection.outbox.closed:
            return
        if request.HasField("close"):
            _withdraw(self._connection, request.close.key)
        self._connection.outbox.post(request)

    async def fetch_services(self, timeout_s: float = math.inf) -> Sequence[ServiceInfo]:
        """Asks for the services behind this link as they are now; raises ServiceError where no answer comes.

        Waits for ``timeout_s`` and never longer than for any other sign of life.
        """
        connection, timeout_s = self._standing(), min(timeout_s, self._timing.silence_s)
        with calling(connection.peer):
            stub = PipelineServiceStub(connection.channel)
            answer = await stub.GetServiceInfo(GetServiceInfoRequest(), timeout=timeout_s)
        return tuple(answer.services)

    async def run(self, handler: LinkHandler) -> None:
        """Keeps the link up until cancelled; to be run once, in a task of the owner's."""
        await keep_up(self._open, partial(self._use, handler), self._timing, self._log)

    def _open(self) -> _Connection:
        return Connection(self.target, _NEXT_SERVICE, _HEARTBEAT, self._timing, self._tls)

    async def _use(self, handler: LinkHandler, connection: _Connection) -> NoReturn:
        """Lives on ``connection`` until it ends, which raises ServiceError."""
        welcome = await self._meet(connection)
        self._connection = connection
        self._services = tuple(welcome.services)
        self._credits = self._granted = welcome.credits
        self._log.info("link up", services=[service.name for service in self._services])
        try:
            self._set_state(welcome.ready, welcome.draining, handler)
            await connection.run(partial(self._receive, handler))
        except ServiceError as error:
            self._disconnect()
            self._set_state(False, False, handler)
            handler.link_down(as_lost(error))
            raise
        finally:
            self._disconnect()

    async def _meet(self, connection: _Connection) -> StreamBlocksResponse.Welcome:
        connection.start(PipelineServiceStub(connection.channel).StreamBlocks())
        try:
            response = await connection.handshake(StreamBlocksRequest(hello=self._hello))
        except ServiceError as error:
            if error.reason == "PROTOCOL_VERSION":
                # An older service takes its own version alone.
                self._hello.protocol_version = next(self._versions)
            raise
        if not response.HasField("welcome"):
            raise stage_lost(f"{connection.peer} began with {response.WhichOneof('payload')} instead of a welcome")
        if response.welcome.services:
            connection.peer = response.welcome.services[0].name
        return response.welcome

    def _disconnect(self) -> None:
        self._connection, self._services = None, ()
        self._credits = self._granted = 0

    async def _receive(self, handler: LinkHandler, response: StreamBlocksResponse) -> None:
        match response.WhichOneof("payload"):
            case "heartbeat":
                await self._receive_heartbeat(handler, response.heartbeat)
            case "ack":
                self._take_back_credit()
                handler.respond(response)
            case "opened" | "session_failed":
                handler.respond(response)

    async def _receive_heartbeat(self, handler: LinkHandler, heartbeat: StreamBlocksResponse.Heartbeat) -> None:
        """Notes whether all services from here on are ready; asks who they are whenever they become so."""
        connection, age_s = self._standing(), heartbeat.oldest_running_block_age.ToNanoseconds() / 1e9
        if age_s > self._timing.service_deadline_s:
            raise stage_lost(f"{connection.peer} has been at one block for {age_s:.1f} s")
        if heartbeat.ready and not self.ready:
            self._services = await self.fetch_services()
            connection.peer = self._services[0].name if self._services else _NEXT_SERVICE
        self._set_state(heartbeat.ready, heartbeat.draining, handler)

    def _set_state(self, ready: bool, draining: bool, handler: LinkHandler) -> None:
        before = self._ready.is_set(), self._draining
        if (ready, draining) == before:
            return
        self._draining = draining
        if ready:
            self._ready.set()
        else:
            self._ready.clear()
        if ready != before[0]:
            self._observer.link_changed(self._peer, self.target, ready)
        handler.link_ready(ready)

    def _standing(self) -> _Connection:
        if self._connection is None:
            raise stage_lost("the next service is not there", self.target)
        return self._connection

    def _has_credit(self) -> bool:
        return self._credits > 0

    def _take_back_credit(self) -> None:
        connection = self._standing()
        if self._credits >= self._granted:
            raise stage_lost(f"{connection.peer} acknowledged more blocks than it was sent")
        self._credits += 1
        connection.outbox.notify()


def _withdraw(connection: _Connection, key: SessionKey) -> None:
    """Drops what waits to be written for a session that is over, unless a block follows that needs it."""
    if not any(request.HasField("block") and request.block.key == key for request in connection.outbox):
        connection.outbox.withdraw(lambda request: _key(request) == key)


def _key(request: StreamBlocksRequest) -> SessionKey | None:
    """The session to whose work a message adds; None where it adds to none."""
    kind = request.WhichOneof("payload")
    return getattr(request, kind).key if kind in ("audio", "conditioning_part") else None
