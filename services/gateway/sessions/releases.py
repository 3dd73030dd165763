"""Gives sessions up before this gateway ends, so that another one goes on with them at once.

Knows the order in which a session is let go; what is stored of it is for others to know.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from live_avatar.services.gateway.sessions.attachment import Phase
from live_avatar.services.gateway.sessions.keeper import Keeper
from live_avatar.services.gateway.sessions.point_source import PointSource
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.serving.errors import DRAINING, ServiceError, as_service_error, draining
from live_avatar.serving.logs import session_name
from live_avatar.v1 import avatar_service_pb2 as api

_STORED_S = 3.0
"""For the newest point of a session to be stored, after which it is released; else it stays."""


class Releases:
    """Of one gateway.

    Args:
        store: of all sessions.
        keeper: of those of this gateway.
        source: what is stored of a session; None: nothing.
        forget: drops a session here; what is stored of it stays.
    """

    def __init__(
        self,
        store: SessionStore,
        keeper: Keeper,
        source: Callable[[Session], PointSource | None],
        forget: Callable[[Session], object],
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._source = source
        self._forget = forget
        self._log = structlog.get_logger(__name__)

    def ask(self, session: Session) -> bool:
        """Lets the stream of a session end between two blocks, where another gateway can go on with it then.

        Returns:
            Whether that is so; a session without a stream is for ``release``.
        """
        source = self._source(session)
        if source is None or session.phase is not Phase.STREAMING or not session.attachment.is_resumable:
            return False
        session.events.go_away(0.0, DRAINING, resumable=True)
        session.attachment.leave_with(lambda: self.release(session))
        return True

    async def let_go(self, session: Session, drain_s: float) -> None:
        """Gives up a session without a stream where another gateway can go on with it; warns or ends any other."""
        if session.phase is Phase.STREAMING or not await self.release(session):
            if session.phase is Phase.RESERVED:
                session.fail(draining("this gateway takes no new sessions"))
            session.warn(drain_s, DRAINING)

    async def release(self, session: Session) -> bool:
        """Gives up a session that is between two blocks, or has no stream; returns whether it is another's now."""
        source = self._source(session)
        if source is None:
            return False
        log = self._log.bind(session=session_name(session.record.session_id))
        try:
            async with asyncio.timeout(_STORED_S):
                await session.wait_for(lambda: _is_stored(session, source))
                await self._give_up(session)
        except (TimeoutError, ServiceError) as error:
            reason = "STORE_SLOW" if isinstance(error, TimeoutError) else as_service_error(error).reason
            log.warning("session cannot be released", reason=reason)
            self._keeper.hold(session.record, session.fail, lambda: session.used)
            return False
        self._forget(session)
        log.info("session released")
        return True

    async def _give_up(self, session: Session) -> None:
        record = replace(session.record, state=api.Session.STATE_SUSPENDED)
        self._keeper.drop(record.session_id)
        async with session.publishing:
            await self._store.activate(record)
            await self._store.release(record)


def _is_stored(session: Session, source: PointSource) -> bool:
    """Another gateway can go on with all that the client has received."""
    if session.phase is not Phase.STREAMING:
        return source.is_stored
    return source.sequence_of(session.attachment.streams.log.block) is not None
