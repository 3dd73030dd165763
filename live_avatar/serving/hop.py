"""The server half of a hop: what a service of the pipeline answers to its upstream neighbours.

Knows the protocol: hello, sessions with their epochs, order, failure, readiness.  Knows nothing of the work, which a
``Work`` does (``worker.py`` feeds it), and nothing of how messages travel (``upstream.py``, ``link.py``).
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from functools import partial

import grpc
import structlog

from live_avatar.pipeline.v1.blocks_pb2 import (
    GetServiceInfoRequest,
    GetServiceInfoResponse,
    ServiceInfo,
    SessionKey,
    StreamBlocksRequest,
    StreamBlocksResponse,
)
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceServicer
from live_avatar.serving.device import Device
from live_avatar.serving.errors import (
    SESSION_NOT_FOUND,
    ServiceError,
    draining,
    from_session_failed,
    session_failed,
    stage_lost,
)
from live_avatar.serving.hop_messages import Message
from live_avatar.serving.link import Link
from live_avatar.serving.observer import NoObserver, Observer
from live_avatar.serving.sessions import MAX_SESSION_ID_LENGTH, Session
from live_avatar.serving.streams.mailbox import MailboxClosedError
from live_avatar.serving.timing import PROTOCOL_VERSION, HopTiming, duration
from live_avatar.serving.upstream import Context, Upstream
from live_avatar.serving.work import Work
from live_avatar.serving.worker import Worker

# Gateways that may share one pipeline.
MAX_STREAMS = 64
BLOCK_CREDITS = 2


class HopServer(PipelineServiceServicer):
    """PipelineService of one service; ``run`` must run beside the gRPC server it is added to.

    Args:
        info: who this is; the hop fills in protocol version, open sessions and their bytes.
        work: what it does with blocks.
        link: to the next service, not running yet; None at the end of the chain.
        device: executor with one thread, owned by the caller, who may submit other work to it.
        block_credits: blocks that each upstream neighbour may have here at once.
        timing: waits.
        observer: receives events of sessions and blocks.
    """

    def __init__(
        self,
        info: ServiceInfo,
        work: Work,
        link: Link | None,
        device: Executor,
        *,
        block_credits: int = BLOCK_CREDITS,
        timing: HopTiming | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._info = info
        self._link = link
        self._block_credits = block_credits
        self._timing = timing or HopTiming()
        self._device = Device(device)
        self._worker = Worker(info.name, work, link, self._device, self._timing, observer or NoObserver())
        self._upstreams: set[Upstream] = set()
        self._handshakes = 0
        self._draining = False
        self._log = structlog.get_logger(__name__).bind(service=info.name)

    @property
    def alive(self) -> bool:
        """The device is not stuck; says nothing about neighbours."""
        return self._device.age_s <= self._timing.service_deadline_s

    @property
    def ready(self) -> bool:
        """This service and all that follow accept sessions."""
        return self.alive and not self._draining and (self._link is None or self._link.ready)

    @property
    def draining(self) -> bool:
        """This service or one that follows ends once its sessions have left."""
        return self._draining or (self._link is not None and self._link.draining)

    @property
    def chain(self) -> Sequence[ServiceInfo]:
        """This service and all that follow, as of the last time that these became ready."""
        return [self.describe(), *(self._link.services if self._link is not None else ())]

    async def run(self) -> None:
        """Works and keeps the link up until cancelled; frees all sessions then."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._worker.run())
            if self._link is not None:
                tasks.create_task(self._link.run(self))

    async def drain(self) -> None:
        """Refuses new sessions from now on; returns when the open ones have left or ended.

        Upstream learns of it at once, so that gateways move their sessions.  The caller sets the deadline.
        """
        self._draining = True
        self._send_heartbeat()
        await self._worker.sessions.empty.wait()

    def fail(self, key: SessionKey, error: ServiceError) -> None:
        """Ends a session for a reason outside the chain, and notifies upstream; in the event loop alone.

        Nothing happens where there is no such session.
        """
        session = self._worker.sessions.find(key)
        if session is not None:
            self._worker.fail(session, error)

    def describe(self) -> ServiceInfo:
        """This service as it is now."""
        info = ServiceInfo()
        info.CopyFrom(self._info)
        info.protocol_version = PROTOCOL_VERSION
        info.sessions_open = len(self._worker.sessions)
        info.session_bytes = self._worker.sessions.reserved_bytes
        return info

    async def GetServiceInfo(
        self, request: GetServiceInfoRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> GetServiceInfoResponse:
        """Describes this service and all that follow it; those as last seen where they do not answer.

        They get half of the time that the caller waits, so that one that is frozen leaves time for this answer.
        """
        below: Sequence[ServiceInfo] = ()
        if self._link is not None:
            below = self._link.services
            try:
                left_s = context.time_remaining()
                below = await self._link.fetch_services(math.inf if left_s is None else left_s / 2)
            except ServiceError as error:
                self._log.info("next service gave no description", error=error.message)
        return GetServiceInfoResponse(services=[self.describe(), *below], ready=self.ready)

    async def StreamBlocks(  # type: ignore[override]  # gRPC takes this form too: a coroutine that writes by itself
        self, request_iterator: AsyncIterator[StreamBlocksRequest], context: Context
    ) -> None:
        """One upstream neighbour, from its hello to its end; its sessions end with it."""
        upstream = Upstream(context, self._heartbeat, self._block_credits, self._timing)
        try:
            await self._handshake(upstream)
            self._upstreams.add(upstream)
            self._log.info("caller connected", peer=upstream.peer)
            upstream.reply(self._welcome())
            await upstream.run(partial(self._receive, upstream))
        finally:
            self._upstreams.discard(upstream)
            upstream.close()
            for session in self._worker.sessions:
                if session.upstream is upstream:
                    self._worker.end(session)

    def respond(self, response: StreamBlocksResponse) -> None:
        """Takes what the next service says about a session."""
        if response.HasField("opened"):
            session = self._worker.sessions.find(response.opened.key)
            if session is not None:
                self._worker.opened(session, response.opened.reservations)
        elif response.HasField("session_failed"):
            session = self._worker.sessions.find(response.session_failed.key)
            if session is not None:
                # Freed below already: no Close goes down.
                session.forwarded = False
                error = from_session_failed(response.session_failed)
                self._log.warning("session failed below", session_id=session.key.session_id, reason=error.reason)
                self._worker.end(session, response)

    def link_ready(self, ready: bool) -> None:
        """Tells upstream at once what changed below."""
        self._send_heartbeat()

    def link_down(self, error: ServiceError) -> None:
        """Fails all sessions that were open on the next service."""
        for session in self._worker.sessions:
            if session.forwarded:
                session.forwarded = False
                self._worker.fail(session, error)

    async def _handshake(self, upstream: Upstream) -> None:
        """Waits for the hello of a caller; raises ServiceError where it does not fit or too many are here."""
        if self._handshakes >= MAX_STREAMS:
            raise _crowded(f"{MAX_STREAMS} callers have not said hello")
        self._handshakes += 1
        try:
            await upstream.handshake(self._info.model_digest)
        finally:
            self._handshakes -= 1
        if len(self._upstreams) >= MAX_STREAMS:
            raise _crowded(f"{MAX_STREAMS} callers are here already")

    async def _receive(self, upstream: Upstream, request: StreamBlocksRequest) -> None:
        arrived_at_ns = time.monotonic_ns()
        kind = request.WhichOneof("payload")
        if kind == "heartbeat":
            return
        if kind is None or kind == "hello":
            reason = "MESSAGE_MALFORMED" if kind is None else "DUPLICATE_HELLO"
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{kind or 'nothing'} came after hello")
        key: SessionKey = getattr(request, kind).key
        if not 0 < len(key.session_id) <= MAX_SESSION_ID_LENGTH:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "SESSION_KEY_MALFORMED",
                f"a session id of {len(key.session_id)} characters; 1 to {MAX_SESSION_ID_LENGTH} are allowed",
            )
        if kind == "block":
            upstream.take_credit()
        session = self._admit(upstream, key, kind)
        if session is None:
            if kind == "block":
                upstream.acknowledge(key, request.block.index)
        elif kind == "close":
            self._worker.end(session)
        else:
            await self._put(Message(session, request, arrived_at_ns))

    def _admit(self, upstream: Upstream, key: SessionKey, kind: str) -> Session | None:
        """The session a message is for; None where there is none; upstream has been notified then."""
        sessions = self._worker.sessions
        try:
            known = sessions.note_epoch(key)
            if kind == "open":
                return self._register(upstream, key)
        except ServiceError as error:
            upstream.reply(session_failed(key, error, self._info.name))
            return None
        session = sessions.find(key)
        if session is not None and session.upstream is upstream:
            return session
        # A known session that is gone has ended a moment ago: what was under way for it is dropped in silence.
        if kind != "close" and (session is not None or not known):
            missing = ServiceError(grpc.StatusCode.NOT_FOUND, SESSION_NOT_FOUND, "not open on this stream")
            upstream.reply(session_failed(key, missing, self._info.name))
        return None

    def _register(self, upstream: Upstream, key: SessionKey) -> Session:
        for older in self._worker.sessions.older(key):
            self._worker.fail(older, _fenced(older.key, key))
        if (duplicate := self._worker.sessions.find(key)) is not None:
            error = ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "DUPLICATE_OPEN", "the session was open already")
            if duplicate.upstream is not upstream:
                self._worker.fail(duplicate, error)
            self._worker.end(duplicate)
            raise error
        if self._draining:
            raise draining(f"{self._info.name} takes no new sessions")
        if not self.ready:
            raise stage_lost(f"{self._info.name} or a service behind it is not ready")
        session = Session(key, upstream)
        self._worker.sessions.add(session)
        return session

    async def _put(self, message: Message) -> None:
        try:
            await self._worker.put(message)
        except MailboxClosedError:
            raise draining(f"{self._info.name} is ending") from None

    def _welcome(self) -> StreamBlocksResponse:
        below = self._link.services if self._link is not None else ()
        welcome = StreamBlocksResponse.Welcome(
            services=[self.describe(), *below], credits=self._block_credits, ready=self.ready, draining=self.draining
        )
        return StreamBlocksResponse(welcome=welcome)

    def _heartbeat(self) -> StreamBlocksResponse:
        heartbeat = StreamBlocksResponse.Heartbeat(
            oldest_running_block_age=duration(int(self._device.age_s * 1e9)),
            ready=self.ready,
            draining=self.draining,
        )
        return StreamBlocksResponse(heartbeat=heartbeat)

    def _send_heartbeat(self) -> None:
        for upstream in self._upstreams:
            upstream.reply(self._heartbeat())


def _crowded(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED", message)


def _fenced(old: SessionKey, new: SessionKey) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED, "STALE_EPOCH", f"epoch {old.epoch} was replaced by {new.epoch} of the same session"
    )
