"""Sessions, leases and slots in Redis: the truth that all gateways share.

Races are settled by WATCH and MULTI, so that no script runs in Redis; time is Redis's own.  A lease is a key that
ends by itself, an epoch counts who has held it, a slot is a place of a session on a pipeline and ends with the lease.
A transaction whose answer is lost is tried again, so each recognises what it has done itself.  Knows records; nothing
of streams, pipelines' addresses or the public API's rules.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import grpc
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from live_avatar.services.gateway.store.records import (
    OPEN_KEY,
    OVER,
    LeaseLostError,
    SessionRecord,
    claims_key,
    lease_key,
    lease_value,
    request_key,
    session_key,
    slots_key,
    tenant_key,
)
from live_avatar.services.gateway.store.redis_access import as_text, begin, now_ms, reported, transact
from live_avatar.services.gateway.store.renewals import Renewal, Renewals, as_record, read_record
from live_avatar.serving.errors import SESSION_NOT_FOUND, ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

_REAPED_AT_ONCE = 100
GATEWAY_LOST = "GATEWAY_LOST"
_CLAIM = b"claim"
"""Field of a session's hash: which attempt to take it over was the last to succeed."""


class SessionStore:
    """All sessions of all tenants.

    Every method raises ``ServiceError`` UNAVAILABLE/STORE_LOST where Redis does not answer, and STORE_REFUSED where it
    refuses our credentials.

    Args:
        client: of Redis.
        renewals: client that leases are renewed with, so that they never wait for a connection behind callers;
            None: ``client``.
        owner: name of this gateway in leases.
        lease_ms: how long a session outlives its gateway's last sign of life.
        retention_ms: how long a session that is over can still be read.
        longest_ms: longest life of a session; older entries of the tenants' lists are dropped.
    """

    def __init__(
        self,
        client: Redis,
        *,
        owner: str,
        lease_ms: int = 10_000,
        retention_ms: int,
        longest_ms: int,
        renewals: Redis | None = None,
    ) -> None:
        self._redis = client
        self.owner = owner
        self._renewals = Renewals(renewals or client, owner, lease_ms)
        self._longest_ms = longest_ms
        self._lease_ms = lease_ms
        self._retention_ms = retention_ms

    async def check(self) -> None:
        """Returns where Redis answers and takes what we write."""
        await self._renewals.check()

    async def aclose(self) -> None:
        """Ends the connections."""
        await self._redis.aclose(close_connection_pool=True)
        await self._renewals.aclose()

    async def create(self, record: SessionRecord) -> tuple[SessionRecord, bool]:
        """Stores a new session with a lease of ours, or finds the one that this request id made before.

        Returns:
            The stored session, with its times and epoch, and whether it is new.
        """
        by_request = request_key(record.tenant, record.request_id)

        async def attempt(pipe: Pipeline) -> tuple[SessionRecord, bool]:
            await pipe.watch(session_key(record.session_id))
            done = await read_record(pipe, record.session_id)
            if done is not None:
                return done, True
            if record.request_id:
                await pipe.watch(by_request)
                known = await pipe.get(by_request)
                earlier = await read_record(pipe, as_text(known)) if known else None
                if earlier is not None:
                    return earlier, False
            now = await now_ms(pipe)
            new = replace(record, create_ms=now, expire_ms=now + record.max_duration_ms, epoch=1)
            begin(pipe)
            self._put(pipe, new, now)
            if record.request_id:
                pipe.set(by_request, record.session_id, px=record.max_duration_ms + self._retention_ms)
            await pipe.execute()
            return new, True

        return await transact(self._redis, attempt)

    async def discard(self, record: SessionRecord) -> None:
        """Forgets a session whose creation failed, its place and its request id too, so that it may be tried again."""
        by_request = request_key(record.tenant, record.request_id)

        async def attempt(pipe: Pipeline) -> None:
            await pipe.watch(session_key(record.session_id), by_request)
            stored = await read_record(pipe, record.session_id)
            is_ours = await pipe.get(by_request) == record.session_id.encode()
            begin(pipe)
            pipe.delete(session_key(record.session_id), lease_key(record.session_id))
            if is_ours:
                pipe.delete(by_request)
            pipe.zrem(tenant_key(record.tenant), record.session_id)
            pipe.zrem(OPEN_KEY, record.session_id)
            for pipeline in {record.pipeline, stored.pipeline if stored else ""}:
                pipe.zrem(slots_key(pipeline), record.session_id)
                pipe.delete(claims_key(pipeline))
            await pipe.execute()

        await transact(self._redis, attempt)

    async def find(self, session_id: str) -> SessionRecord | None:
        """The session of any tenant, for those who prove their right by a token."""
        async with reported():
            return await read_record(self._redis, session_id)

    async def get(self, tenant: str, session_id: str) -> SessionRecord:
        """The tenant's session; raises ServiceError NOT_FOUND for any other."""
        record = await self.find(session_id)
        if record is None or record.tenant != tenant:
            raise not_found(session_id)
        return record

    async def list_page(self, tenant: str, size: int, before: str = "") -> tuple[Sequence[SessionRecord], bool]:
        """The tenant's sessions, newest first, ``size`` at most; after ``before`` where that is given.

        Returns:
            The sessions, and whether more follow.
        """
        async with reported():
            index, found = tenant_key(tenant), list[SessionRecord]()
            start = 0
            if before:
                position = await self._redis.zrevrank(index, before)
                if position is None:
                    raise _bad_page_token()
                assert isinstance(position, int), "a rank without a score is a number"
                start = position + 1
            while len(found) <= size:
                ids = await self._redis.zrevrange(index, start, start + size)
                if not ids:
                    break
                found += await self._read_all([as_text(raw) for raw in ids])
                start += len(ids)
            return found[:size], len(found) > size

    async def _read_all(self, session_ids: Sequence[str]) -> Sequence[SessionRecord]:
        """Those of the sessions that are stored, in one question; what is no session of ours is left out."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for session_id in session_ids:
                pipe.hgetall(session_key(session_id))
            records = map(as_record, await pipe.execute())
            return [record for record in records if record is not None]

    async def activate(self, record: SessionRecord) -> None:
        """Stores what became of a session of ours; raises ServiceError NOT_FOUND where it is gone, over or taken."""

        async def attempt(pipe: Pipeline) -> None:
            key = session_key(record.session_id)
            await pipe.watch(key)
            stored = await read_record(pipe, record.session_id)
            if stored is None or stored.state in OVER or stored.epoch != record.epoch:
                raise not_found(record.session_id)
            begin(pipe)
            pipe.hset(key, mapping=record.to_fields())
            await pipe.execute()

        await transact(self._redis, attempt)

    async def set_state(
        self, session_id: str, state: int, reason: str = "", *, epoch: int | None = None
    ) -> SessionRecord:
        """Moves a session on; one that is over stays as it is.  Raises ServiceError NOT_FOUND.

        Args:
            session_id: which.
            state: a number of ``Session.State``.
            reason: why it is over, where it did not end as asked.
            epoch: a session that is in another one stays as it is; None: any.
        """

        async def attempt(pipe: Pipeline) -> SessionRecord:
            await pipe.watch(session_key(session_id))
            record = await read_record(pipe, session_id)
            if record is None:
                raise not_found(session_id)
            if record.state in OVER or epoch not in (None, record.epoch):
                return record
            begin(pipe)
            pipe.hset(session_key(session_id), mapping={"state": str(state), "end_reason": reason})
            if state in OVER:
                self._end(pipe, record)
            await pipe.execute()
            return replace(record, state=state, end_reason=reason)

        return await transact(self._redis, attempt)

    async def holder(self, session_id: str) -> str | None:
        """Name of the gateway that holds a session; None where its lease has ended."""
        async with reported():
            lease = await self._redis.get(lease_key(session_id))
        return None if lease is None else as_text(lease).rpartition(":")[0]

    async def renew(self, record: SessionRecord) -> None:
        """Prolongs one lease, see ``renew_all``; raises what became of it."""
        outcome = (await self.renew_all([record]))[record.session_id]
        if outcome is not None:
            raise outcome

    async def renew_all(self, records: Sequence[SessionRecord]) -> Mapping[str, Renewal]:
        """Prolongs our leases, see ``Renewals.renew_all``."""
        return await self._renewals.renew_all(records)

    async def take_over(self, session_id: str) -> SessionRecord:
        """Takes a session whose lease has ended, with the next epoch.

        Raises:
            LeaseLostError: somebody holds it.
            ServiceError: NOT_FOUND.
        """
        claim = secrets.token_bytes(8)

        async def attempt(pipe: Pipeline) -> SessionRecord:
            lease = lease_key(session_id)
            await pipe.watch(lease, session_key(session_id))
            fields = await pipe.hgetall(session_key(session_id))
            if not fields:
                raise not_found(session_id)
            record = SessionRecord.from_fields(fields)
            if fields.get(_CLAIM) == claim:
                return record
            if record.state in OVER or await pipe.get(lease) is not None:
                raise LeaseLostError(session_id, record)
            now = await now_ms(pipe)
            taken = replace(record, epoch=record.epoch + 1)
            begin(pipe)
            self._put(pipe, taken, now)
            pipe.hset(session_key(session_id), _CLAIM, claim)
            await pipe.execute()
            return taken

        return await transact(self._redis, attempt)

    async def reserve_slot(self, record: SessionRecord, pipeline: str, capacity: int) -> SessionRecord | None:
        """Takes a place for a session; returns the session on that pipeline, None where ``capacity`` is reached.

        Raises:
            ServiceError: NOT_FOUND; the session is gone.
        """
        slots, name, claims = slots_key(pipeline), record.session_id, claims_key(pipeline)

        async def attempt(pipe: Pipeline) -> SessionRecord | None:
            # Renewals change the slots all the time, and a slow store would never see them at rest.
            await pipe.watch(claims, session_key(name))
            if not await pipe.exists(session_key(name)):
                raise not_found(name)
            now = await now_ms(pipe)
            until = await pipe.zscore(slots, name)
            if until is not None and until >= now:
                return replace(record, pipeline=pipeline)
            if await pipe.zcount(slots, now, "+inf") >= capacity:
                return None
            begin(pipe)
            pipe.zremrangebyscore(slots, "-inf", f"({now}")
            pipe.zadd(slots, {name: now + self._lease_ms})
            pipe.set(claims, name, px=self._lease_ms)
            pipe.hset(session_key(name), "pipeline", pipeline)
            await pipe.execute()
            return replace(record, pipeline=pipeline)

        return await transact(self._redis, attempt)

    async def count_slots(self, pipeline: str) -> int:
        """Places taken on a pipeline, by all gateways."""
        return (await self.count_all_slots([pipeline]))[pipeline]

    async def count_all_slots(self, pipelines: Collection[str]) -> Mapping[str, int]:
        """Places taken on each pipeline, by all gateways."""
        async with reported():
            now = await now_ms(self._redis)
            async with self._redis.pipeline(transaction=False) as pipe:
                for name in pipelines:
                    pipe.zcount(slots_key(name), now, "+inf")
                return dict(zip(pipelines, map(int, await pipe.execute()), strict=True))

    async def late(self, held: Collection[str] = ()) -> Sequence[str]:
        """Names of sessions whose lease has run out, the oldest first and some at once; never one of ``held``."""
        async with reported():
            now = await now_ms(self._redis)
            late = await self._redis.zrangebyscore(OPEN_KEY, "-inf", now, start=0, num=_REAPED_AT_ONCE + len(held))
        return [name for name in map(as_text, late) if name not in held][:_REAPED_AT_ONCE]

    async def reap(self, names: Collection[str]) -> Sequence[SessionRecord]:
        """Ends the sessions called ``names`` whose gateway has vanished; returns them."""
        ended = [await self._reap_one(name) for name in names]
        return [record for record in ended if record is not None]

    async def _reap_one(self, session_id: str) -> SessionRecord | None:
        try:
            record = await self.take_over(session_id)
        except LeaseLostError:
            return None
        except (ServiceError, ValueError) as error:
            if isinstance(error, ServiceError) and error.reason != SESSION_NOT_FOUND:
                raise
            # It is gone, or not of our making: there is nothing to end.
            async with reported():
                await self._redis.zrem(OPEN_KEY, session_id)
            return None
        return await self.set_state(record.session_id, api.Session.STATE_FAILED, GATEWAY_LOST)

    def _put(self, pipe: Pipeline, record: SessionRecord, now: int) -> None:
        keep_ms = record.expire_ms - now + self._retention_ms
        key, index = session_key(record.session_id), tenant_key(record.tenant)
        pipe.hset(key, mapping=record.to_fields())
        pipe.pexpire(key, max(keep_ms, self._retention_ms))
        pipe.set(lease_key(record.session_id), lease_value(self.owner, record.epoch), px=self._lease_ms)
        pipe.zadd(OPEN_KEY, {record.session_id: now + self._lease_ms})
        pipe.zadd(index, {record.session_id: record.create_ms})
        pipe.zremrangebyscore(index, "-inf", now - self._longest_ms - self._retention_ms)

    def _end(self, pipe: Pipeline, record: SessionRecord) -> None:
        pipe.delete(lease_key(record.session_id))
        pipe.zrem(OPEN_KEY, record.session_id)
        pipe.zrem(slots_key(record.pipeline), record.session_id)
        pipe.pexpire(session_key(record.session_id), self._retention_ms)
        if record.request_id:
            # A session that never came to be must not be found by those who ask for it again.
            keep_ms = 1 if record.state == api.Session.STATE_CREATING else self._retention_ms
            pipe.pexpire(request_key(record.tenant, record.request_id), keep_ms)


def not_found(session_id: str) -> ServiceError:
    """The answer where there is no such session, or where it is another tenant's."""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND, SESSION_NOT_FOUND, "there is no such session", {"session_id": session_id[:64]}
    )


def _bad_page_token() -> ServiceError:
    code = grpc.StatusCode.INVALID_ARGUMENT
    return ServiceError(code, "PAGE_TOKEN_INVALID", "the page token is unknown", field="page_token")
