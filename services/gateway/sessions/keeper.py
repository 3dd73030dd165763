"""Keeps in the store what this gateway holds: leases are renewed, ends are written, and what others left is ended.

Every kind of work has a loop of its own, so that none waits for a slow answer to another.  Knows records and leases;
nothing of how sessions work.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import structlog

from live_avatar.services.gateway.election.leader import LeaderElection
from live_avatar.services.gateway.store.records import LeaseLostError, SessionRecord
from live_avatar.services.gateway.store.redis_access import RETRY_AFTER_S, STORE_LOST
from live_avatar.services.gateway.store.renewals import Renewal
from live_avatar.services.gateway.store.store import GATEWAY_LOST, SessionStore
from live_avatar.services.gateway.store.usage import Amounts
from live_avatar.serving.errors import SESSION_NOT_FOUND, ServiceError
from live_avatar.serving.logs import session_name
from live_avatar.v1 import avatar_service_pb2 as api

_RENEWED_TOGETHER = 128
"""Leases that share one transaction, and its fate."""
_MOST_ENDS = 10_000
_LAST_S = 2.0
"""For ends that are written when the gateway itself ends."""

Lost = Callable[[ServiceError], None]
Ended = Callable[[SessionRecord, str], None]
"""Takes why a session is not this gateway's any more."""
Used = Callable[[], Amounts]
"""All that a session has used so far."""


@dataclass
class _Held:
    record: SessionRecord
    lost: Lost
    used: Used
    renewed_at: float

    def renewed(self, at: float) -> None:
        """The lease was prolonged by a question of time ``at``."""
        self.renewed_at = max(self.renewed_at, at)


@dataclass(frozen=True)
class End:
    """How a session ended."""

    session_id: str
    epoch: int
    """In which we held it; a later one is another gateway's."""
    state: int
    """A number of ``Session.State``."""
    reason: str
    """Empty where it ended as asked."""
    used: Amounts = field(default_factory=Amounts)
    """All that it has used."""


class Keeper:
    """What this gateway holds, as the store should have it; ``run`` must run while it is used.

    Args:
        store: of all sessions.
        lease_s: how long a lease lasts.
        election: the leader ends what other gateways left.
        grace_s: how long a session goes on while the store does not answer; services refuse it where another gateway
            has taken it meanwhile.
    """

    def __init__(self, store: SessionStore, lease_s: float, election: LeaderElection, grace_s: float) -> None:
        self._store = store
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._election = election
        self._held: dict[str, _Held] = {}
        self._ends: dict[str, End] = {}
        self._late_since: dict[str, float] = {}
        """When sessions were first seen without a lease."""
        self._ended: Ended = lambda record, reason: None
        """Called once for each session that ends here, or that this gateway ends for one that was lost."""
        self._log = structlog.get_logger(__name__)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._election.run())
            for work in (self._renew_all, self._store_ends, self._reap):
                tasks.create_task(self._repeat(work))

    def on_end(self, ended: Ended) -> None:
        """Calls ``ended`` with the record and the reason of each session that ends."""
        self._ended = ended

    @property
    def ends_waiting(self) -> int:
        """Ends that are not stored yet."""
        return len(self._ends)

    def hold(self, record: SessionRecord, lost: Lost = lambda error: None, used: Used = Amounts) -> None:
        """Renews a session from now on, once it has an epoch; from now on it is not reaped here.

        Args:
            record: replaces the one that was held.
            lost: called at most once per renewal that finds the session to be another's, or the store to be gone.
            used: asked with every renewal.
        """
        self._held[record.session_id] = _Held(record, lost, used, time.monotonic())

    def drop(self, session_id: str) -> None:
        """Renews a session no more.  Idempotent."""
        self._held.pop(session_id, None)

    async def end(self, end: End) -> None:
        """Drops a session and writes its end; where the store does not answer, it is tried again later."""
        self._note_end(end)
        self.drop(end.session_id)
        if len(self._ends) >= _MOST_ENDS:
            self._ends.pop(next(iter(self._ends)))
        self._ends[end.session_id] = end
        await self._store_end(end)

    def _note_end(self, end: End) -> None:
        held = self._held.get(end.session_id)
        if held is not None:
            self._ended(held.record, end.reason)

    async def end_all(self, ends: Sequence[End]) -> None:
        """Ends sessions, and gives up what the store does not take soon: the gateway itself ends."""
        try:
            async with asyncio.timeout(_LAST_S):
                await asyncio.gather(*map(self.end, ends))
                await self._store_ends()
        except TimeoutError:
            self._log.warning("ends of sessions were not stored", sessions=len(self._ends))

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        period_s = self._lease_s / 3
        while True:
            began = time.monotonic()
            await work()
            await asyncio.sleep(max(0.0, began + period_s - time.monotonic()))

    async def _renew_all(self) -> None:
        """Prolongs all leases; what has no answer by the time of the next turn is left to it."""
        records = [held.record for held in self._held.values() if held.record.epoch]
        async with asyncio.TaskGroup() as parts:
            for first in range(0, len(records), _RENEWED_TOGETHER):
                parts.create_task(self._renew(records[first : first + _RENEWED_TOGETHER]))

    async def _renew(self, records: Sequence[SessionRecord]) -> None:
        began = time.monotonic()
        used = self._used([record.session_id for record in records])
        try:
            async with asyncio.timeout(self._lease_s / 3):
                outcomes = await self._store.renew_all(records, used)
        except TimeoutError:
            outcomes = {record.session_id: _store_lost() for record in records}
        for record in records:
            held = self._held.get(record.session_id)
            # A session that has ended meanwhile, or got a place, is no business of this answer.
            if held is not None and held.record.epoch == record.epoch:
                self._apply_outcome(held, outcomes[record.session_id], began)

    def _used(self, names: Sequence[str]) -> Mapping[str, Amounts]:
        """What sessions have used, where that is anything."""
        used = {name: self._held[name].used() for name in names if name in self._held}
        return {name: amounts for name, amounts in used.items() if amounts.blocks}

    def _apply_outcome(self, held: _Held, outcome: Renewal, began: float) -> None:
        if outcome is None:
            held.renewed(began)
        elif isinstance(outcome, LeaseLostError):
            held.lost(_taken(outcome.record))
        elif began - held.renewed_at > self._grace_s:
            held.lost(_store_lost())

    async def _store_ends(self) -> None:
        """Writes the ends that could not be written so far."""
        for end in tuple(self._ends.values()):
            if not await self._store_end(end):
                return

    async def _store_end(self, end: End) -> bool:
        """Whether the store knows the end now."""
        try:
            await self._store.set_state(end.session_id, end.state, end.reason, epoch=end.epoch, used=end.used)
        except ServiceError as error:
            if error.reason != SESSION_NOT_FOUND:
                self._log.warning("a session's end was not stored", reason=error.reason)
                return False
        except ValueError as error:
            self._log.warning("what is stored is no session", reason=str(error))
        self._ends.pop(end.session_id, None)
        return True

    async def _reap(self) -> None:
        """Ends the sessions of gateways that have vanished.

        After an outage of the store all leases have run out: a gateway that lives gets the time of one more lease, in
        which it takes them back.
        """
        if not self._election.is_leader:
            self._late_since = {}
            return
        try:
            late = await self._store.late({*self._held, *self._ends})
            now = time.monotonic()
            self._late_since = {name: self._late_since.get(name, now) for name in late}
            gone = [name for name, since in self._late_since.items() if now - since >= self._lease_s]
            for record in await self._store.reap(gone):
                self._log.warning("a gateway left a session behind", session=session_name(record.session_id))
                self._ended(record, GATEWAY_LOST)
            await self._store.settle()
        except ServiceError as error:
            self._late_since = {}
            self._log.warning("leases could not be looked at", reason=error.reason)


def _taken(record: SessionRecord | None) -> ServiceError:
    """What a session has ended with whose record is not ours any more."""
    if record is None:
        message = "the session store has lost the session"
        return ServiceError(grpc.StatusCode.ABORTED, STORE_LOST, message, retry_after_s=RETRY_AFTER_S)
    if record.state == api.Session.STATE_CLOSED:
        return session_closed()
    message = "another gateway has taken the session, since this one gave no sign of life"
    return ServiceError(grpc.StatusCode.ABORTED, "LEASE_LOST", message)


def session_closed() -> ServiceError:
    """What a stream ends with when its session is closed."""
    return ServiceError(grpc.StatusCode.ABORTED, "SESSION_CLOSED", "the session was closed")


def _store_lost() -> ServiceError:
    message = "the session store has been away for too long"
    return ServiceError(grpc.StatusCode.ABORTED, STORE_LOST, message, retry_after_s=RETRY_AFTER_S)
