"""Leases that are prolonged, many in one transaction, and taken back where nobody else has them.

Knows records and Redis; nothing of how sessions begin or end.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from live_avatar.services.gateway.store.quotas import concurrent_key
from live_avatar.services.gateway.store.records import (
    OPEN_KEY,
    OVER,
    PROBE_KEY,
    LeaseLostError,
    SessionRecord,
    lease_key,
    lease_value,
    session_key,
    slots_key,
)
from live_avatar.services.gateway.store.redis_access import begin, now_ms, reported, transact
from live_avatar.services.gateway.store.usage import Amounts, running_key
from live_avatar.serving.errors import ServiceError

_RENEWALS_AT_ONCE = 8
_NOTHING: Mapping[str, Amounts] = {}
_USE_KEPT_MS = 24 * 3600 * 1000
"""After the longest time that a session may last; deleted before, with its last usage record."""

Restore = Callable[[Pipeline, SessionRecord, int], None]
"""Takes a transaction, a session and the time of Redis in milliseconds."""
Renewal = LeaseLostError | ServiceError | None
"""What became of one renewal; None: the lease is prolonged."""


class Renewals:
    """Prolongs the leases of one gateway.

    Args:
        client: of Redis; best one of its own, so that leases never wait for a connection behind callers.
        owner: name of this gateway in leases.
        lease_ms: how long a lease lasts.
        restore: stores a session that Redis has lost; None: those are given up.
    """

    def __init__(self, client: Redis, owner: str, lease_ms: int, restore: Restore | None = None) -> None:
        self._restore = restore
        self._redis = client
        self._owner = owner
        self._lease_ms = lease_ms
        self._running = asyncio.Semaphore(_RENEWALS_AT_ONCE)

    async def check(self) -> None:
        """Returns where Redis answers and takes what we write."""

        async def attempt(pipe: Pipeline) -> None:
            begin(pipe)
            pipe.set(PROBE_KEY, self._owner, px=self._lease_ms)
            await pipe.execute()

        await transact(self._redis, attempt)

    async def aclose(self) -> None:
        """Ends the connection."""
        await self._redis.aclose(close_connection_pool=True)

    async def renew_all(
        self, records: Sequence[SessionRecord], used: Mapping[str, Amounts] = _NOTHING
    ) -> Mapping[str, Renewal]:
        """Prolongs our leases, and the slots with them, in one transaction.

        A lease that has ended is taken back, with the same epoch, where nobody has taken the session meanwhile.

        Args:
            records: of the sessions.
            used: what they have used so far, by session; stored with them, for whoever must end them.

        Returns:
            What became of each, by session; LeaseLostError where it is not ours any more.
        """
        async with self._running:
            try:
                late = await self._prolong(records, used)
                taken_back = await self._take_back(late) if late else {}
            except ServiceError as error:
                return {record.session_id: error for record in records}
        return {record.session_id: taken_back.get(record.session_id) for record in records}

    async def _prolong(self, records: Sequence[SessionRecord], used: Mapping[str, Amounts]) -> Sequence[SessionRecord]:
        """Prolongs the leases that are ours; returns the records of the others."""

        async def attempt(pipe: Pipeline) -> Sequence[SessionRecord]:
            leases = [lease_key(record.session_id) for record in records]
            await pipe.watch(*leases)
            values = await pipe.mget(leases)
            is_ours = [value == self._value(one) for one, value in zip(records, values, strict=True)]
            ours = list(compress(records, is_ours))
            if ours:
                now = await now_ms(pipe)
                begin(pipe)
                for record in ours:
                    pipe.pexpire(lease_key(record.session_id), self._lease_ms)
                    claim_until(pipe, record, now + self._lease_ms)
                    if record.session_id in used:
                        kept_ms = max(0, record.expire_ms - now) + _USE_KEPT_MS
                        pipe.set(running_key(record.session_id), used[record.session_id].to_json(), px=kept_ms)
                await pipe.execute()
            return [record for record, mine in zip(records, is_ours, strict=True) if not mine]

        return await transact(self._redis, attempt)

    async def _take_back(self, records: Sequence[SessionRecord]) -> Mapping[str, Renewal]:
        """Takes leases again that ended while nobody renewed them; LeaseLostError where somebody has the session.

        The lease comes first and the look at the session after it: who would take the session over finds the lease.
        """
        async with reported(), self._redis.pipeline(transaction=False) as pipe:
            for record in records:
                pipe.set(lease_key(record.session_id), self._value(record), nx=True, px=self._lease_ms)
                pipe.get(lease_key(record.session_id))
                pipe.hgetall(session_key(record.session_id))
            pipe.time()
            *answers, (seconds, _) = await pipe.execute()
        now, outcomes = int(seconds) * 1000, dict[str, Renewal]()
        async with reported(), self._redis.pipeline(transaction=True) as pipe:
            for record, lease, fields in zip(records, answers[1::3], answers[2::3], strict=True):
                is_ours, stored = lease == self._value(record), as_record(fields)
                goes_on = is_ours and self._goes_on(pipe, record, stored, now)
                if is_ours and not goes_on:
                    pipe.delete(lease_key(record.session_id))
                outcomes[record.session_id] = None if goes_on else LeaseLostError(record.session_id, stored)
            await pipe.execute()
        return outcomes

    def _goes_on(self, pipe: Pipeline, record: SessionRecord, stored: SessionRecord | None, now: int) -> bool:
        """Whether a session whose lease we have again is still ours; stores anew what Redis has forgotten of it."""
        if self._restore is not None and self._is_lost(record, stored):
            self._restore(pipe, record, now)
        elif stored is None or stored.state in OVER or stored.epoch != record.epoch:
            return False
        claim_until(pipe, record, now + self._lease_ms)
        return True

    def _is_lost(self, record: SessionRecord, stored: SessionRecord | None) -> bool:
        """Redis has forgotten the session, or the last that it knew of it: it lost its memory, or a replica took over.

        A session that ended while we had no answer could still be read.
        """
        return stored is None or (stored.state not in OVER and stored.epoch < record.epoch)

    def _value(self, record: SessionRecord) -> bytes:
        return lease_value(self._owner, record.epoch)


def as_record(fields: Mapping[Any, Any]) -> SessionRecord | None:
    """What is stored; None where that is nothing, or no session."""
    try:
        return SessionRecord.from_fields(fields)
    except ValueError:
        return None


def claim_until(pipe: Pipeline, record: SessionRecord, until: int) -> None:
    """Prolongs what stands beside a lease; another gateway has ``resume_ms`` longer to go on with the session."""
    until += record.resume_ms
    pipe.zadd(OPEN_KEY, {record.session_id: until})
    pipe.zadd(concurrent_key(record.tenant), {record.session_id: until})
    if record.pipeline:
        pipe.zadd(slots_key(record.pipeline), {record.session_id: until})


async def read_record(redis: Redis | Pipeline, session_id: str) -> SessionRecord | None:
    """A session as it is stored; None where it is not."""
    stored = await redis.hgetall(session_key(session_id))
    return SessionRecord.from_fields(stored) if stored else None
