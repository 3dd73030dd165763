"""The sessions of this gateway: how they begin, who may use them, and how they end.

Joins store, pipelines and sessions; every session that begins here ends here, whatever happens to its client, its
pipeline or the store.  Knows nothing of gRPC's servicers.
"""

import asyncio
import hashlib
import math
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import structlog

from live_avatar.portrait.sizing import target_size
from live_avatar.services.gateway.access.caller import Caller
from live_avatar.services.gateway.access.handles import ResumeHandle, ResumeHandles
from live_avatar.services.gateway.election.leader import LeaderElection, NoElection
from live_avatar.services.gateway.pipelines import messages
from live_avatar.services.gateway.pipelines.fleet import Fleet
from live_avatar.services.gateway.pipelines.pipeline import SERVICE, Pipeline
from live_avatar.services.gateway.quotas.book import QuotaBook
from live_avatar.services.gateway.quotas.rules import check_frame, session_ms
from live_avatar.services.gateway.refusals import CAUSE, PRECONDITION, expired
from live_avatar.services.gateway.sessions.attachment import Phase
from live_avatar.services.gateway.sessions.block_scheduler import BlockScheduler
from live_avatar.services.gateway.sessions.continuity import Continuity
from live_avatar.services.gateway.sessions.creation import Creations, create_failed
from live_avatar.services.gateway.sessions.events import Interruption
from live_avatar.services.gateway.sessions.failures import Failures
from live_avatar.services.gateway.sessions.keeper import End, Ended, Keeper, session_closed
from live_avatar.services.gateway.sessions.lookup import Lookup, gateway_lost
from live_avatar.services.gateway.sessions.moves import Moves
from live_avatar.services.gateway.sessions.negotiation import negotiated
from live_avatar.services.gateway.sessions.placement import Placement
from live_avatar.services.gateway.sessions.policy import SessionPolicy
from live_avatar.services.gateway.sessions.portrait import condition
from live_avatar.services.gateway.sessions.provenance import provenance_of
from live_avatar.services.gateway.sessions.recovery import Recovery
from live_avatar.services.gateway.sessions.releases import Releases
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.sessions.sweep import sweep
from live_avatar.services.gateway.store.points import RecoveryPoints
from live_avatar.services.gateway.store.probe import StoreProbe
from live_avatar.services.gateway.store.quotas import QuotaError, Quotas
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.store.store import SessionStore, not_found
from live_avatar.services.gateway.usage.recorder import UsageRecorder
from live_avatar.services.gateway.waiting import Condition, KeyedLocks, run_until
from live_avatar.serving.errors import SESSION_NOT_FOUND, ServiceError, as_service_error, draining
from live_avatar.serving.logs import session_name
from live_avatar.serving.portraits import Portraits
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api

_SWEEP_S = 0.5


class SessionManager:
    """All sessions that this gateway holds; ``run`` must run while it is used."""

    def __init__(
        self,
        store: SessionStore,
        fleet: Fleet,
        policy: SessionPolicy,
        telemetry: Telemetry,
        election: LeaderElection | None = None,
        points: RecoveryPoints | None = None,
    ) -> None:
        self.store = store
        self._sessions: dict[str, Session] = {}
        self._fleet = fleet
        self._keeper = Keeper(store, policy.lease_s, election or NoElection(), policy.grace_s)
        self._placement = Placement(store, fleet)
        self._taking_locks = KeyedLocks()
        self._recovery = Recovery(store, self._keeper, self._placement, telemetry)
        self.continuity = Continuity(points, self._placement, self._recovery, policy)
        self._moves = Moves(self._sessions.values, self._keeper, self._placement, self._recovery.publish, telemetry)
        self._releases = Releases(store, self._keeper, self.continuity.source, self._forget)
        self._probe = StoreProbe(store)
        self.policy = policy
        self._telemetry = telemetry
        self._changed = Condition()
        self._tasks: asyncio.TaskGroup | None = None
        self.handles = ResumeHandles(policy.tokens)
        self._portraits = Portraits(policy.limits.portrait, "reference_image")
        self._creations = Creations(store, self._keeper)
        self._failures = Failures()
        self._lookup = Lookup(store, self._sessions, self._failures)
        self.quotas = QuotaBook(store.quotas, policy.quotas)
        self._recorder = UsageRecorder(store.usage, self.quotas.of, policy.recording, self._report_backlog)
        self._draining = False
        self._log = structlog.get_logger(__name__)

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def pipelines(self) -> Sequence[Pipeline]:
        """Those that may get new sessions."""
        return self._fleet.pipelines

    @property
    def ready(self) -> bool:
        """At least one pipeline takes sessions, and the store keeps them."""
        return not self._draining and self._probe.works and any(pipeline.ready for pipeline in self.pipelines)

    async def run(self) -> None:
        """Keeps pipelines and leases alive until cancelled; then ends all sessions."""
        try:
            async with self._portraits, asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._fleet.run())
                self._tasks.create_task(self._keeper.run())
                self._tasks.create_task(self._probe.run())
                self._tasks.create_task(self._recorder.run())
                self._tasks.create_task(self._sweep_all())
                self._tasks.create_task(self._moves.run())
                self._tasks.create_task(self.continuity.run())
        finally:
            self._tasks = None
            await self._end_all()

    async def _end_all(self) -> None:
        """Frees what is left, and says so in the store as far as it answers."""
        sessions = tuple(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            session.fail(_draining("this gateway ends"))
            session.line.close()
            session.end()
        await self._keeper.end_all([_end(session, api.Session.STATE_FAILED) for session in sessions])

    def on_end(self, ended: Ended) -> None:
        """Calls ``ended`` with the record and the reason of each session that ends; an empty reason: as asked."""
        self._keeper.on_end(ended)

    async def drain(self) -> None:
        """Refuses new sessions from now on; returns when none is left.  Cancelled, it ends those that are left."""
        self._draining = True
        for session in tuple(self._sessions.values()):
            if not self._releases.ask(session):
                self._begin_task(self._releases.let_go(session, self.policy.drain_s))
        try:
            await self._changed.wait_for(lambda: not self._sessions)
        finally:
            for session in self._sessions.values():
                session.fail(_draining("this gateway ends"))

    async def create(
        self, caller: Caller, request: api.CreateSessionRequest, turn: str = ""
    ) -> tuple[SessionRecord, str]:
        """Makes a session, or finds the one this request id made; returns it with its token.

        Args:
            caller: whose session it is.
            request: checked against the table of limits.
            turn: those with the same one share a turn where portraits wait to be decoded; empty: unknown.

        Raises:
            ServiceError: the portrait breaks a limit, a quota is used up, there is no room, or a service failed.
        """
        if self._draining:
            raise _draining()
        self._portraits.check(request.reference_image)
        try:
            return await self._create(caller, request, turn)
        except QuotaError as error:
            self._telemetry.quota_rejected(error.quota)
            raise

    async def _create(self, caller: Caller, request: api.CreateSessionRequest, turn: str) -> tuple[SessionRecord, str]:
        quotas = await self.quotas.of(caller.tenant)
        new = self._record(caller, request, quotas)
        async with self._creations.making(new):
            record, is_new = await self.store.create(new, quotas)
            if is_new:
                record = await self._fill(record, request, quotas, turn)
        if not is_new:
            self._keeper.drop(new.session_id)
            record = await self._creations.join(record, new.request_hash)
        return record, self.policy.tokens.make(record.session_id, record.tenant, record.expire_ms)

    async def attach(self, opening: api.StreamAvatarRequest.Open, tenant: str = "") -> Session:
        """The session that a stream is opened for, now streaming.

        Args:
            opening: first message of the stream.
            tenant: of the caller; empty: the token alone says who calls.

        Raises:
            ServiceError: UNAUTHENTICATED, NOT_FOUND, or FAILED_PRECONDITION where it cannot be opened (again).
        """
        right = self.policy.tokens.check(opening.session_token)
        if tenant not in ("", right.tenant):
            raise not_found(right.session_id)
        handle = self.handles.check(opening.resume_handle) if opening.resume_handle else None
        session, next_block = self._lookup.held(right.tenant, right.session_id), opening.next_block_index
        if session is None:
            record = await self.store.get(right.tenant, right.session_id)
            session, handle, next_block = await self._held_or_taken(record, handle, next_block)
        if handle is None and (session.phase is Phase.RESERVED or not opening.resumable):
            session.attach(resumable=opening.resumable)
            if not session.attachment.is_resumable:
                self._begin_task(self.continuity.give_up(session))
            self._begin_task(self._feed(session))
        else:
            await session.resume_stream(handle, next_block)
            self._telemetry.stream_resumed()
            self._begin_task(self._recovery.publish(session))
        return session

    async def _held_or_taken(
        self, record: SessionRecord, handle: ResumeHandle | None, next_block: int
    ) -> tuple[Session, ResumeHandle | None, int]:
        """The session of a record, taken over where its gateway is lost; handle and block as they hold there."""
        async with self._taking_locks.locked(record.session_id):
            holder = await self._lookup.left_by(record)
            if holder is None:
                return await self._lookup.find(record), handle, next_block
            session = await self._take_over(record, holder, handle, next_block)
        if handle is not None:
            handle = replace(handle, block=session.attachment.streams.log.block)
        return session, handle, 0

    async def _take_over(
        self, record: SessionRecord, lost: str, handle: ResumeHandle | None, next_block: int
    ) -> Session:
        """Goes on here with a session of the gateway ``lost``; see ``TakeOver.take``.

        A session that had a stream waits for another one then, with which it goes on; one without waits for its first.
        """
        if self._draining:
            raise _draining()
        quotas = await self.quotas.of(record.tenant)
        policy = self.policy.within(quotas)

        def make(moved: SessionRecord, pipeline: Pipeline) -> Session:
            config = api.SessionConfig.FromString(moved.config)
            return Session(moved, config, pipeline, policy, self._telemetry)

        taken = await self.continuity.taking.take(record, lost, handle, next_block, make)
        session, name = taken.session, record.session_id
        self._sessions[name] = session
        self._keeper.hold(session.record, session.fail, lambda: session.used)
        self._recorder.add(session)
        self._telemetry.session_opened(SERVICE, session.key, 0)
        self.continuity.begin(session, taken.fields)
        self._recovery.expect(name, taken.pipeline)
        session.recover_with(self._recover_soon)
        if session.phase is Phase.DETACHED:
            self._begin_task(self._feed(session))
        return session

    async def _feed(self, session: Session) -> None:
        """Feeds a session's pipeline, over all its streams, until the session ends."""
        feeding = BlockScheduler(session, self._telemetry).run()
        error = await run_until(lambda: session.phase is Phase.OVER, session.changed, feeding)
        if error is not None:
            session.fail(as_service_error(error))

    def leave(self, session: Session, state: int, reason: str) -> None:
        """A stream of ``session`` has ended, which ends as well unless its client can resume; arguments as ``end``."""
        if state == api.Session.STATE_CLOSED or session.failure is not None or not session.attachment.outlives(reason):
            self.end_soon(session, state, reason)
            return
        session.detach()
        self._telemetry.session_suspended(reason)
        self._log.info("stream lost", session=session_name(session.record.session_id), reason=reason)
        self._begin_task(self._recovery.publish(session))

    async def interrupt(self, tenant: str, session_id: str, request_id: str) -> Interruption:
        """Barge-in, see ``Delivery.interrupt``; raises ServiceError also where the session is not held here."""
        session = await self._lookup.find(await self.store.get(tenant, session_id))
        session.touch("interrupt")
        return session.delivery.interrupt("", request_id, in_order=False)

    async def update(self, tenant: str, session_id: str, prompt: str) -> tuple[SessionRecord, int]:
        """Changes the prompt; returns the session and the first block it holds for.

        Raises:
            ServiceError: the session is not held here, does not stream, or ends meanwhile.
        """
        session = await self._lookup.find(await self.store.get(tenant, session_id))
        if session.phase is not Phase.STREAMING:
            raise ServiceError(PRECONDITION, "STREAM_NOT_OPEN", "the session's stream is not open yet")
        session.touch("update")
        with session.conditioning.prompts.waiting_call():
            applied = session.update(prompt)
            await session.wait_for(lambda: (applied.done() and session.is_served) or session.phase is Phase.OVER)
        if not applied.done():
            raise expired("the session ended before the next block")
        record = session.refresh_record()
        await self.store.activate(record)
        return record, applied.result()

    async def close(self, tenant: str, session_id: str) -> SessionRecord:
        """Ends a session; returns it.  Idempotent; raises ServiceError NOT_FOUND, and HeldElsewhereError."""
        await self._lookup.check_not_elsewhere(await self.store.get(tenant, session_id))
        session = self._sessions.get(session_id)
        if session is not None:
            session.fail(session_closed())
            await self.end(session, api.Session.STATE_CLOSED)
        return await self.store.set_state(session_id, api.Session.STATE_CLOSED)

    async def take_over(self, record: SessionRecord) -> None:
        """The gateway of a session is lost: whoever opens a stream of it now goes on with it here."""
        if not record.point_epoch:
            raise gateway_lost("the gateway that holds the session does not answer, and has not stored what it needs")
        self._lookup.note_lost(record)

    async def close_lost(self, record: SessionRecord) -> None:
        """Ends a session whose gateway is lost, as its owner asked."""
        await self.store.set_state(record.session_id, api.Session.STATE_CLOSED)

    async def end(self, session: Session, state: int, reason: str = "") -> None:
        """Frees all that a session holds, then says so in the store.  Idempotent.

        Args:
            session: one of ours.
            state: a number of ``Session.State``.
            reason: why it failed, where the session itself does not know.
        """
        if not self._forget(session):
            return
        end = _end(session, state, reason)
        self._log.info("session ended", session=session_name(session.record.session_id), reason=end.reason)
        await self._keeper.end(end)

    def _forget(self, session: Session) -> bool:
        """Frees all that a session holds here; returns whether it held anything."""
        if self._sessions.pop(session.record.session_id, None) is None:
            return False
        self._recorder.drop(session.record.session_id)
        self.continuity.drop(session.record.session_id)
        self._failures.note(session.record.session_id, session.failure)
        session.line.close()
        session.end()
        self._telemetry.session_closed(SERVICE, session.key, 0)
        self._changed.notify()
        return True

    def end_soon(self, session: Session, state: int, reason: str = "") -> None:
        """``end``, for those who may not wait."""
        self._begin_task(self.end(session, state, reason))

    def _recover_soon(self, session: Session) -> None:
        self._begin_task(self._recovery.recover(session))

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:
            work.close()
            return
        try:
            self._tasks.create_task(work)
        except RuntimeError:
            # The group is ending, and ``run`` ends all sessions itself.
            work.close()

    def _record(self, caller: Caller, request: api.CreateSessionRequest, quotas: Quotas) -> SessionRecord:
        limits = self.policy.limits
        wanted_ms = -(-request.max_duration.ToNanoseconds() // 1_000_000)  # no time at all means the longest
        return SessionRecord(
            session_id=secrets.token_hex(16),
            tenant=caller.tenant,
            key_id=caller.key_id,
            state=api.Session.STATE_CREATING,
            config=request.config.SerializeToString(),
            request_hash=hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
            request_id=request.request_id,
            pipeline="",
            endpoint=self.policy.endpoint,
            relay=self.policy.relay,
            max_duration_ms=session_ms(caller.tenant, quotas, wanted_ms, limits.max_session_seconds * 1000),
            idle_timeout_ms=limits.idle_timeout_seconds * 1000,
        )

    async def _fill(
        self, record: SessionRecord, request: api.CreateSessionRequest, quotas: Quotas, turn: str
    ) -> SessionRecord:
        """Gets a stored session everything it needs."""
        self._keeper.hold(record)
        try:
            record, pipeline = await self._placement.place(record)
            self._keeper.hold(record)
            area = pipeline.preset.max_area
            shape = await self._portraits.measure(request.reference_image, math.isqrt(area), turn)
            height, width = target_size(*shape, area)
            config = negotiated(request.config, (width, height), pipeline.preset)
            check_frame(record.tenant, quotas, config.video)
            record = replace(
                record,
                config=config.SerializeToString(),
                state=api.Session.STATE_ACTIVE,
                preset=pipeline.preset.name,
                provenance=await provenance_of(record.session_id, pipeline, self.policy.signing),
            )
            record = self.continuity.plan(record, config)
            session = Session(record, config, pipeline, self.policy.within(quotas), self._telemetry)
            opening = messages.open_request(session.key, config, (width, height))
            await pipeline.open(opening, session.line, finished_blocks=session.outlives_pipeline)
            await self._begin(session, request.reference_image)
        except ServiceError as error:
            self._telemetry.admission_rejected(error.reason)
            raise
        return record

    async def _begin(self, session: Session, image: bytes) -> None:
        name = session.record.session_id
        # Before the store knows it: who sees it there finds it here.
        self._sessions[name] = session
        self._keeper.hold(session.record, session.fail, lambda: session.used)
        try:
            await self.store.activate(session.record)
        except BaseException as error:
            self._sessions.pop(name, None)
            session.line.close()
            if isinstance(error, ServiceError) and error.reason == SESSION_NOT_FOUND:
                raise session.failure or create_failed("the session was ended while it was being made") from error
            raise
        assert self._tasks is not None, "sessions begin while the manager runs"
        session.recover_with(self._recover_soon)
        self._recorder.add(session)
        self._telemetry.session_opened(SERVICE, session.key, 0)
        self._log.info("session begun", session=session_name(name))
        self.continuity.begin(session)
        self._tasks.create_task(self._condition(session, image))

    async def _condition(self, session: Session, image: bytes) -> None:
        """Makes the session ready for its first block; from then on another gateway can go on with it."""
        await condition(session, image)
        self.continuity.note_ready(session)

    def _report_backlog(self, sessions: int) -> None:
        self._telemetry.usage_backlog(sessions + self._keeper.ends_waiting)

    async def _sweep_all(self) -> None:
        """Ends what has expired, idles, is stuck, or failed without a client that learns of it."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            for session in tuple(self._sessions.values()):
                sweep(session, self.policy.limits.block_deadline_seconds)
                if session.failure is not None and session.phase in (Phase.RESERVED, Phase.DETACHED):
                    await self.end(session, api.Session.STATE_FAILED)


def _end(session: Session, state: int, reason: str = "") -> End:
    """How a session ended; its own failure knows best."""
    if session.failure is not None:
        reason = session.failure.metadata.get(CAUSE, session.failure.reason)
    asked = state == api.Session.STATE_CLOSED
    return End(session.record.session_id, session.record.epoch, state, "" if asked else reason, session.used)


def _draining(message: str = "this gateway takes no new sessions") -> ServiceError:
    return draining(message)
