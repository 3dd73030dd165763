"""Goes on with sessions that have lost their pipeline: on their own once that is back, or on another with room.

A place is reserved in the next epoch, the pipeline is primed with what the session had, and the session's blocks follow
from the first that has not come.  Knows attempts and their pauses; what a session needs is its own to say.
"""

import asyncio
import time
from collections import Counter
from dataclasses import replace

import structlog

from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.sessions.attachment import Phase
from live_avatar.services.gateway.sessions.keeper import Keeper
from live_avatar.services.gateway.sessions.opening import open_again
from live_avatar.services.gateway.sessions.placement import Placement
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.services.gateway.waiting import run_until
from live_avatar.serving.errors import SESSION_NOT_FOUND, ServiceError, as_service_error
from live_avatar.serving.logs import session_name
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
"""Between attempts of one session."""


class Recovery:
    """Of all sessions of one gateway.

    Args:
        store: of all sessions.
        keeper: of those of this gateway.
        placement: on its pipelines.
        telemetry: of this gateway.
    """

    def __init__(self, store: SessionStore, keeper: Keeper, placement: Placement, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._store = store
        self._keeper = keeper
        self._placement = placement
        self._placed: dict[str, Pipeline] = {}
        """Where suspended sessions have a place in their present epoch already."""
        self._log = structlog.get_logger(__name__)

    def expect(self, session_id: str, pipeline: Pipeline) -> None:
        """A suspended session has a place on ``pipeline`` in its present epoch: it goes on there first."""
        self._placed[session_id] = pipeline

    async def recover(self, session: Session) -> None:
        """Goes on with a suspended session, or fails it with what its pipeline was lost for."""
        recovering = self._recover(session)
        error = await run_until(lambda: session.phase is Phase.OVER, session.changed, recovering)
        if error is not None:
            session.fail(as_service_error(error))

    async def _recover(self, session: Session) -> None:
        began, cause, pause_s = time.monotonic(), session.suspension.expire(), _FIRST_PAUSE_S
        failures: Counter[str] = Counter()
        log = self._log.bind(session=session_name(session.record.session_id))
        log.warning("session suspended", reason=cause.reason)
        self._telemetry.session_suspended(cause.reason)
        try:
            async with asyncio.timeout(session.limits.resume_seconds):
                while not await self._attempt(session, failures):
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        except TimeoutError:
            self._telemetry.recovery_failed(cause.reason)
            raise cause from None
        after_s = time.monotonic() - began
        self._telemetry.session_recovered(cause.reason, after_s)
        log.info("session goes on", block=session.ledger.admitted, after_s=round(after_s, 3))

    async def _attempt(self, session: Session, failures: Counter[str]) -> bool:
        """Returns whether the session goes on; raises ServiceError where it is not ours any more."""
        try:
            pipeline = self._placed.pop(session.record.session_id, None) or await self._place(session, failures)
            failures[pipeline.name] += 1
            session.resume(await open_again(session, pipeline), session.suspension.expire())
            await self.publish(session)
        except ServiceError as error:
            if error.reason == SESSION_NOT_FOUND:
                raise
            self._log.debug("session cannot go on yet", reason=error.reason)
            await self.publish(session)
            return False
        return True

    async def _place(self, session: Session, failures: Counter[str]) -> Pipeline:
        """Moves a session to a pipeline with room, where it is opened next."""
        primed = session.ledger.admitted > 0
        record, pipeline = await self._placement.move(
            session.record, session.model_digest, primed=primed, failures=failures
        )
        session.move(record)
        self._keeper.hold(record, session.fail, lambda: session.used)
        return pipeline

    async def give_up_point(self, session: Session) -> None:
        """Shows in the store that no other gateway goes on with the session, as far as the store answers."""
        async with session.publishing:
            try:
                record = replace(session.record, point_epoch=0, resume_ms=0)
                await self._store.activate(record)
            except ServiceError as error:
                self._log.warning("that a session ends with its gateway was not stored", reason=error.reason)
                return
            session.move(record)
            self._keeper.hold(record, session.fail, lambda: session.used)

    async def publish(self, session: Session) -> None:
        """Shows in the store whether the session waits for its client or a pipeline, as far as the store answers."""
        async with session.publishing:
            state = api.Session.STATE_SUSPENDED if session.waits else api.Session.STATE_ACTIVE
            if session.record.state == state or session.phase is Phase.OVER:
                return
            try:
                record = replace(session.record, state=state)
                await self._store.activate(record)
                session.move(record)
            except ServiceError as error:
                self._log.warning("suspension was not stored", reason=error.reason)
