"""The client half of a hop: one stream to the next service, kept up for ever.

Knows hello, credits, heartbeats and reconnection; knows nothing of sessions.  Used by the gateway (to the head of a
pipeline) and by every service but the last.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Protocol

import structlog

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo, StreamBlocksRequest, StreamBlocksResponse
from live_avatar.serving.backoff import Backoff
from live_avatar.serving.connection import Connection
from live_avatar.serving.errors import STAGE_LOST, ServiceError, stage_lost
from live_avatar.serving.observer import NoObserver, Observer
from live_avatar.serving.timing import SERVED_VERSIONS, HopTiming
from live_avatar.serving.tls import ClientTls


class LinkHandler(Protocol):
    """Who owns a link.  Called in the event loop; must neither wait nor raise."""

    def respond(self, response: StreamBlocksResponse) -> None:
        """An Opened, Ack or SessionFailed came up; the link has counted the credit of an Ack already."""

    def link_ready(self, ready: bool) -> None:
        """``Link.ready`` changed."""

    def link_down(self, error: ServiceError) -> None:
        """The stream broke: all sessions sent down it are lost.  Called once per stream that had been up."""


def always() -> bool:
    """The answer of a sender who wants its message sent whatever happens."""
    return True


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
        self._version = next(self._versions)
        self._timing = timing or HopTiming()
        self._observer = observer or NoObserver()
        self._tls = tls
        self._connection: Connection | None = None
        self._ready = asyncio.Event()
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
    def services(self) -> Sequence[ServiceInfo]:
        """The next service and those behind it, in order, as of the last time ``ready`` rose; empty while down."""
        return self._connection.services if self._connection else ()

    @property
    def credits(self) -> int:
        """Blocks that may be sent at once."""
        return self._connection.credits if self._connection else 0

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
            wanted: asked once, at the last moment; where it says no, nothing is sent and no credit is used.

        Returns:
            Whether the message was sent.

        Raises:
            ServiceError: STAGE_LOST where the link is down or breaks while this waits.
        """
        return await self._standing().send(request, still_needed)

    def post(self, request: StreamBlocksRequest) -> None:
        """Sends one control message in order without waiting, for example a Close; nothing happens while down.

        The caller bounds how many it posts.
        """
        if self._connection is not None:
            self._connection.post(request)

    async def fetch_services(self, timeout_s: float = math.inf) -> Sequence[ServiceInfo]:
        """Asks for the services behind this link as they are now; raises ServiceError where no answer comes.

        Waits for ``timeout_s`` and never longer than for any other sign of life.
        """
        return await self._standing().fetch_services(timeout_s)

    async def run(self, handler: LinkHandler) -> None:
        """Keeps the link up until cancelled; to be run once, in a task of the owner's."""
        backoff = Backoff(self._timing.backoff_min_s, self._timing.backoff_max_s)
        while True:
            began = time.monotonic()
            error = await self._live_once(handler)
            self._log.warning("link down", reason=error.reason, error=error.message, detail=error.detail)
            if time.monotonic() - began > 2 * self._timing.silence_s:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _live_once(self, handler: LinkHandler) -> ServiceError:
        self._hello.protocol_version = self._version
        connection = Connection(self.target, self._hello, self._timing, self._tls)
        try:
            await connection.open()
            self._connection = connection
            self._log.info("link up", services=[service.name for service in connection.services])
            await connection.run(handler.respond, lambda ready: self._set_ready(ready, handler))
        except ServiceError as error:
            if error.reason == "PROTOCOL_VERSION":
                # An older service takes its own version alone.
                self._version = next(self._versions)
            lost = error if error.reason == STAGE_LOST else stage_lost(error.message, error.detail)
            self._fall(lost, handler)
            return lost
        finally:
            self._connection = None
            await connection.close()

    def _fall(self, lost: ServiceError, handler: LinkHandler) -> None:
        was_up, self._connection = self.up, None
        self._set_ready(False, handler)
        if was_up:
            handler.link_down(lost)

    def _set_ready(self, ready: bool, handler: LinkHandler) -> None:
        if ready == self._ready.is_set():
            return
        if ready:
            self._ready.set()
        else:
            self._ready.clear()
        self._observer.link_changed(self._peer, self.target, ready)
        handler.link_ready(ready)

    def _standing(self) -> Connection:
        if self._connection is None:
            raise stage_lost("the next service is not there", self.target)
        return self._connection
