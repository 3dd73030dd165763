"""Whether a client's stream is open on a session, and what becomes of the session without one.

Knows phases, streams and times; nothing of speech or pipelines.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum

from live_avatar.services.gateway.access.handles import ResumeHandle
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.refusals import PRECONDITION
from live_avatar.services.gateway.sessions.stream_state import StreamState
from live_avatar.services.gateway.waiting import Condition
from live_avatar.serving.errors import ServiceError, draining

CLIENT_GONE = "CLIENT_GONE"
"""Reason of the end of a session whose client cancelled its stream or vanished."""
DETACHING = frozenset({CLIENT_GONE, "SLOW_CONSUMER", "STREAM_REPLACED"})
"""Ends of a stream that a session outlives whose client can resume."""
_REPEAT_S = 0.3
"""Speech that a client sends again has so long to come before silence takes its place."""


class Phase(Enum):
    """Where a session stands."""

    RESERVED = "reserved"
    """Its memory is held; no client has opened the stream."""
    STREAMING = "streaming"
    DETACHED = "detached"
    """Its stream has ended, and another may take its place."""
    OVER = "over"


class Attachment:
    """Of one session.

    Args:
        limits: ``resume_seconds`` holds here.
        streams: what its streams have in common.
        changed: of the session; notified of every change.
    """

    def __init__(self, limits: Limits, streams: StreamState, changed: Condition) -> None:
        self._resume_s = limits.resume_seconds
        self._changed = changed
        self._replacing = asyncio.Lock()
        self._replaced = 0
        """Streams up to this number have to end."""
        self._detached_at = 0.0
        self.streams = streams
        self.phase = Phase.RESERVED
        self.is_resumable = False
        """The session outlives its stream."""
        self.release: Callable[[], Awaitable[bool]] | None = None
        """Gives the session up between two blocks, after which its stream ends; None: it stays."""
        self.since = 0.0
        """When the newest stream began."""

    def open(self, *, resumable: bool) -> None:
        """The first stream begins.

        Args:
            resumable: the client can resume it.

        Raises:
            ServiceError: a stream was opened before.
        """
        if self.phase is not Phase.RESERVED:
            raise _duplicate("the session's stream is open already")
        self.is_resumable = resumable and self._resume_s > 0
        if not self.is_resumable:
            self.streams.log.keep_nothing()
        self._begin()

    async def resume(self, handle: ResumeHandle | None, next_block: int) -> None:
        """A stream takes the place of the last one, which ends.

        Args:
            handle: of the client; None: it never received one.
            next_block: first block that it lacks; 0: that of the handle.

        Raises:
            ServiceError: see ``StreamState.first_block``; DUPLICATE_OPEN where the session does not outlive its stream.
        """
        async with self._replacing:
            if not self.is_resumable:
                raise _duplicate("the session's stream is open already, and cannot be resumed")
            self.streams.first_block(handle, next_block)
            if self.phase is Phase.STREAMING:
                self._replaced = self.streams.number
                self._changed.notify()
                await self._changed.wait_for(lambda: self.phase is not Phase.STREAMING)
            if self.phase is Phase.DETACHED:
                self.streams.rewind(self.streams.first_block(handle, next_block))
                self._begin()
                asyncio.get_running_loop().call_later(_REPEAT_S, self._changed.notify)

    def restore(self) -> None:
        """The session had a stream, at a gateway that is lost; it waits for another one."""
        self.is_resumable = True
        self.detach()

    def _begin(self) -> None:
        self.phase = Phase.STREAMING
        self.streams.begin()
        self.since = time.monotonic()
        self._changed.notify()

    def is_replaced(self, number: int) -> bool:
        """Stream ``number`` has to make room for another."""
        return number <= self._replaced

    def leave_with(self, release: Callable[[], Awaitable[bool]]) -> None:
        """The stream is to end between two blocks, with ``release``."""
        self.release = release
        self._changed.notify()

    async def leave(self) -> None:
        """Gives the session up; nothing happens where that is not possible.

        Raises:
            ServiceError: UNAVAILABLE DRAINING, with which the stream ends.
        """
        release, self.release = self.release, None
        if release is not None and await release():
            raise draining("this gateway ends, and another one continues with the session: resume the stream")

    @property
    def awaits_repetition(self) -> bool:
        """The client may not have sent again yet what was lost with its last stream."""
        return self.streams.number > 1 and time.monotonic() - self.since < _REPEAT_S

    def outlives(self, reason: str) -> bool:
        """The session goes on after a stream that ended for ``reason``."""
        return self.is_resumable and self.phase is Phase.STREAMING and reason in DETACHING

    def detach(self) -> None:
        """The stream has ended, and the session waits for another."""
        self.phase = Phase.DETACHED
        self._detached_at = time.monotonic()
        self._changed.notify()

    def end(self) -> None:
        """The session is over."""
        self.phase = Phase.OVER
        self.streams.end()
        self._changed.notify()

    def is_left(self, now: float) -> bool:
        """The client has been away for too long."""
        return self.phase is Phase.DETACHED and now - self._detached_at > self._resume_s


def _duplicate(message: str) -> ServiceError:
    return ServiceError(PRECONDITION, "DUPLICATE_OPEN", message)
