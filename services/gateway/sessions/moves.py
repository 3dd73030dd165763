"""Moves sessions off pipelines that are about to end, before they do: between two blocks, and a few at a time.

A place elsewhere is taken first; without one a session stays where it is until there is one, or until its pipeline has
ended and it is recovered like any other.  Knows the order of a move; what a session needs is its own to say.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from weakref import WeakKeyDictionary

import structlog

from live_avatar.services.gateway.sessions.keeper import Keeper
from live_avatar.services.gateway.sessions.line import Line
from live_avatar.services.gateway.sessions.opening import open_again
from live_avatar.services.gateway.sessions.placement import Placement
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.waiting import run_until
from live_avatar.serving.errors import as_service_error, draining
from live_avatar.serving.logs import session_name
from live_avatar.serving.telemetry import Telemetry

MOVED_TOGETHER = 4
"""Sessions that are on their way at the same time: each costs its new pipeline a window of blocks."""
_LOOK_S = 0.1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0
"""Between attempts of one session."""
_HANDOVER_S = 15.0
"""For the blocks on their way and those that prime the new pipeline, also of the slowest one."""


class Moves:
    """Of all sessions of one gateway; ``run`` must run while it is used.

    Args:
        sessions: those that this gateway holds.
        keeper: of their leases.
        placement: on its pipelines.
        publish: shows in the store what has become of one.
        telemetry: of this gateway.
    """

    def __init__(
        self,
        sessions: Callable[[], Iterable[Session]],
        keeper: Keeper,
        placement: Placement,
        publish: Callable[[Session], Awaitable[None]],
        telemetry: Telemetry,
    ) -> None:
        self._telemetry = telemetry
        self._sessions = sessions
        self._publish = publish
        self._keeper = keeper
        self._placement = placement
        self._moving: set[Session] = set()
        self._pauses: WeakKeyDictionary[Session, tuple[float, float]] = WeakKeyDictionary()
        """When a session that could not move is tried again, and how long it waits after that."""
        self._log = structlog.get_logger(__name__)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for session in self._next():
                    self._moving.add(session)
                    tasks.create_task(self._move(session))
                await asyncio.sleep(_LOOK_S)

    def _next(self) -> list[Session]:
        """The sessions that are to move now; those that have waited for longest first."""
        room, now = MOVED_TOGETHER - len(self._moving), time.monotonic()
        if not room:
            return []
        leaving = [one for one in self._sessions() if one.pipeline.draining and one.may_move]
        due = [one for one in leaving if one not in self._moving and self._due_at(one) <= now]
        return sorted(due, key=self._due_at)[:room]

    def _due_at(self, session: Session) -> float:
        return self._pauses.get(session, (0.0, 0.0))[0]

    async def _move(self, session: Session) -> None:
        """Moves one, or leaves it where it is."""
        line, began = session.line, time.monotonic()
        log = self._log.bind(session=session_name(session.record.session_id))
        moving = self._attempt(session, line)
        try:
            error = await run_until(lambda: not session.is_on(line), session.changed, moving)
        finally:
            self._moving.discard(session)
        if error is not None:
            log.info("session cannot move yet", reason=as_service_error(error).reason)
            self._put_off(session)
        elif session.is_served and session.line is not line:
            log.info("session moved", block=session.ledger.admitted, after_s=round(time.monotonic() - began, 3))
            await self._publish(session)

    def _put_off(self, session: Session) -> None:
        _, pause_s = self._pauses.get(session, (0.0, _FIRST_PAUSE_S))
        self._pauses[session] = time.monotonic() + pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _attempt(self, session: Session, line: Line) -> None:
        """Raises ServiceError where the session stays on ``line``; nothing has become of it then."""
        primed = session.ledger.admitted > 0
        record, pipeline = await self._placement.move(session.record, session.model_digest, primed=primed, failures={})
        session.move(record)
        self._keeper.hold(record, session.fail, lambda: session.used)
        try:
            async with asyncio.timeout(_HANDOVER_S):
                began = time.monotonic()
                with session.handover.pause():
                    await session.wait_for(lambda: not session.handover.is_sending)
                    moved_to = await open_again(session, pipeline)
                    await _switch(session, line, moved_to)
        except TimeoutError:
            raise draining(f"the session could not leave within {_HANDOVER_S} s") from None
        self._telemetry.session_moved(time.monotonic() - began)


async def _switch(session: Session, before: Line, line: Line) -> None:
    """Goes on with ``line``, once what is on its way on the one before has come; else closes ``line``."""
    try:
        await session.wait_for(lambda: not session.ledger.is_in_flight)
        if line.lost is not None:
            raise line.lost
        if not session.is_on(before):
            raise draining("the session was suspended meanwhile")
    except BaseException:
        line.close()
        raise
    session.resume(line, draining("the pipeline is about to end"))
    before.close()
