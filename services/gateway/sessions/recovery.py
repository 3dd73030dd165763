"""Goes on with sessions that have lost their pipeline: on their own once that is back, or on another with room.

A place is reserved in the next epoch, the pipeline is primed with what the session had, and the session's blocks follow
from the first that has not come.  Knows the order of messages; what a session needs is its own to say.
"""

import asyncio
import time
from dataclasses import replace

import structlog

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.services.gateway.pipelines import messages
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.sessions.attachment import Phase
from live_avatar.services.gateway.sessions.keeper import Keeper
from live_avatar.services.gateway.sessions.line import Line
from live_avatar.services.gateway.sessions.placement import Placement
from live_avatar.services.gateway.sessions.portrait import encode_portrait
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.services.gateway.waiting import run_until
from live_avatar.serving.errors import SESSION_NOT_FOUND, ServiceError, as_service_error
from live_avatar.serving.logs import session_name
from live_avatar.serving.parts import conditioning_parts
from live_avatar.v1 import avatar_service_pb2 as api

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
"""Between attempts of one session."""


class Recovery:
    """Of all sessions of one gateway.

    Args:
        store: of all sessions.
        keeper: of those of this gateway.
        placement: on its pipelines.
    """

    def __init__(self, store: SessionStore, keeper: Keeper, placement: Placement) -> None:
        self._store = store
        self._keeper = keeper
        self._placement = placement
        self._log = structlog.get_logger(__name__)

    async def recover(self, session: Session) -> None:
        """Goes on with a suspended session, or fails it with what its pipeline was lost for."""
        recovering = self._recover(session)
        error = await run_until(lambda: session.phase is Phase.OVER, session.changed, recovering)
        if error is not None:
            session.fail(as_service_error(error))

    async def _recover(self, session: Session) -> None:
        began, cause, pause_s = time.monotonic(), session.suspension.expire(), _FIRST_PAUSE_S
        log = self._log.bind(session=session_name(session.record.session_id))
        log.warning("session suspended", reason=cause.reason)
        try:
            async with asyncio.timeout(session.limits.resume_seconds):
                while not await self._attempt(session):
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        except TimeoutError:
            raise cause from None
        log.info("session goes on", block=session.ledger.admitted, after_s=round(time.monotonic() - began, 3))

    async def _attempt(self, session: Session) -> bool:
        """Returns whether the session goes on; raises ServiceError where it is not ours any more."""
        try:
            record, pipeline = await self._placement.move(session.record, session.model_digest)
            session.move(record)
            self._keeper.hold(record, session.fail, lambda: session.used)
            session.resume(await self._open(session, pipeline))
            await self.publish(session)
        except ServiceError as error:
            if error.reason == SESSION_NOT_FOUND:
                raise
            self._log.debug("session cannot go on yet", reason=error.reason)
            await self.publish(session)
            return False
        return True

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

    async def _open(self, session: Session, pipeline: Pipeline) -> Line:
        """Opens the session on ``pipeline`` and primes that; raises ServiceError, and nothing is held there then."""
        key = SessionKey(session_id=session.record.session_id, epoch=session.record.epoch)
        line, block = Line(session, pipeline, key), session.ledger.admitted
        first = block - session.finished_blocks.count_before(block)
        size = messages.generated_size(session.config.video)
        request = messages.open_request(key, session.config, size, first, block - first)
        try:
            await pipeline.open(request, line, finished_blocks=True)
            await encode_portrait(session, pipeline)
            await self._prime(session, line, first)
            if line.lost is not None:
                raise line.lost
        except BaseException:
            line.close()
            raise
        return line

    async def _prime(self, session: Session, line: Line, first: int) -> None:
        """Sends everything that blocks from ``first`` on are conditioned on, and the finished blocks."""
        for from_block, body in session.conditioning.bodies_since(first):
            for part in conditioning_parts(line.key, from_block, body.SerializeToString()):
                await line.pipeline.send(part)
        block, deadline_s = session.ledger.admitted, session.limits.block_deadline_seconds
        for message in session.finished_blocks.messages(line.key, block, deadline_s):
            async with line.pipeline.slot(time.monotonic_ns()):
                await line.pipeline.send(message)
