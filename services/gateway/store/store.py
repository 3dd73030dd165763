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

from live_avatar.services.gateway.store import quotas
from live_avatar.services.gateway.store.move import move
from live_avatar.services.gateway.store.pages import read_page
from live_avatar.services.gateway.store.records import (
    OPEN_KEY,
    OVER,
    LeaseLostError,
    SessionRecord,
    claims_key,
    lease_key,
    lease_value,
    point_key,
    request_key,
    session_key,
    slots_key,
    tenant_key,
)
from live_avatar.services.gateway.store.redis_access import as_text, begin, now_ms, reported, transact
from live_avatar.services.gateway.store.renewals import Renewal, Renewals, as_record, claim_until, read_record
from live_avatar.services.gateway.store.usage import DUE_KEY, Amounts, UsageLog, is_open
from live_avatar.serving.errors import SESSION_NOT_FOUND, ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

_REAPED_AT_ONCE = 100
CREATE_FAILED, GATEWAY_LOST = "CREATE_FAILED", "GATEWAY_LOST"
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
        grace_ms: how long a gateway goes on without an answer of Redis; where a session that has ended can be read for
            as long, one that is missing was lost with Redis's memory, and is stored anew by its holder.
        longest_ms: longest life of a session; older entries of the tenants' lists are dropped.
        usage: where the use of sessions is recorded; None: in the same Redis.
    """

    def __init__(
        self,
        client: Redis,
        *,
        owner: str,
        lease_ms: int = 10_000,
        grace_ms: int = 30_000,
        retention_ms: int,
        longest_ms: int,
        renewals: Redis | None = None,
        usage: UsageLog | None = None,
    ) -> None:
        self._redis = client
        self.owner = owner
        self.quotas = quotas.QuotaTable(client)
        self.usage = usage or UsageLog(client)
        restore = self._restore if retention_ms >= grace_ms else None
        self._renewals = Renewals(renewals or client, owner, lease_ms, restore)
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

    async def create(self, record: SessionRecord, limits: quotas.Quotas | None = None) -> tuple[SessionRecord, bool]:
        """Stores a new session with a lease of ours, or finds the one that this request id made before.

        Args:
            record: of the session.
            limits: quotas of its tenant, which are checked and used in the same transaction; None: there are none.

        Returns:
            The stored session, with its times and epoch, and whether it is new.

        Raises:
            QuotaError: a quota of the tenant is used up; the call is counted.
        """
        by_request, name = request_key(record.tenant, record.request_id), record.session_id

        async def attempt(pipe: Pipeline) -> tuple[SessionRecord, bool]:
            await pipe.watch(session_key(name))
            done = await read_record(pipe, name)
            if done is not None:
                return done, True
            if record.request_id:
                await pipe.watch(by_request)
                known = await pipe.get(by_request)
                earlier = await read_record(pipe, as_text(known)) if known else None
                if earlier is not None:
                    return earlier, False
            now = await now_ms(pipe)
            refusal = await quotas.exceeded(pipe, record.tenant, name, limits, now) if limits else None
            new = replace(record, create_ms=now, expire_ms=now + record.max_duration_ms, epoch=1)
            begin(pipe)
            if limits is not None:
                quotas.count_call(pipe, record.tenant, name, now)
            if refusal is None:
                self._put(pipe, new, now)
                quotas.admit(pipe, record.tenant, name, now, self._lease_ms)
                if record.request_id:
                    pipe.set(by_request, name, px=record.max_duration_ms + self._retention_ms)
            await pipe.execute()
            if refusal is not None:
                raise refusal
            return new, True

        return await transact(self._redis, attempt)

    async def discard(self, record: SessionRecord) -> None:
        """Forgets a session whose creation failed, its place and its request id too, so that it may be tried again."""
        by_request = request_key(record.tenant, record.request_id)

        async def attempt(pipe: Pipeline) -> None:
            await pipe.watch(session_key(record.session_id), by_request)
            found = await pipe.hgetall(session_key(record.session_id))
            stored = as_record(found)
            is_ours = await pipe.get(by_request) == record.session_id.encode()
            now = await now_ms(pipe)
            begin(pipe)
            if stored is not None:
                failed = replace(stored, state=api.Session.STATE_FAILED, end_reason=CREATE_FAILED)
                self.usage.end(pipe, failed, found, Amounts(), now)
            pipe.delete(session_key(record.session_id), lease_key(record.session_id))
            if is_ours:
                pipe.delete(by_request)
            pipe.zrem(tenant_key(record.tenant), record.session_id)
            pipe.zrem(OPEN_KEY, record.session_id)
            pipe.zrem(quotas.concurrent_key(record.tenant), record.session_id)
            pipe.delete(quotas.admissions_key(record.tenant))
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
        """The tenant's sessions, newest first, see ``read_page``."""
        return await read_page(self._redis, tenant, size, before)

    async def activate(self, record: SessionRecord) -> None:
        """Stores what became of a session of ours; raises ServiceError NOT_FOUND where it is gone, over or taken.

        The first time, its use is recorded from now on.
        """

        async def attempt(pipe: Pipeline) -> None:
            key = session_key(record.session_id)
            await pipe.watch(key)
            found = await pipe.hgetall(key)
            stored = SessionRecord.from_fields(found) if found else None
            if stored is None or stored.state in OVER or stored.epoch != record.epoch:
                raise not_found(record.session_id)
            now = await now_ms(pipe)
            begin(pipe)
            pipe.hset(key, mapping=record.to_fields())
            if record.resume_ms > stored.resume_ms:
                # Not only from the next renewal on: the gateway may be lost before that.
                claim_until(pipe, record, now + self._lease_ms)
            self.usage.start(pipe, record, found)
            await pipe.execute()

        await transact(self._redis, attempt)

    async def release(self, record: SessionRecord) -> None:
        """Gives up the lease of a session of ours: any gateway may go on with it, and its place is kept as long."""
        key, own = lease_key(record.session_id), lease_value(self.owner, record.epoch)

        async def attempt(pipe: Pipeline) -> None:
            await pipe.watch(key)
            lease = await pipe.get(key)
            if lease == own:
                begin(pipe)
                pipe.delete(key)
                await pipe.execute()

        await transact(self._redis, attempt)

    async def set_state(
        self, session_id: str, state: int, reason: str = "", *, epoch: int | None = None, used: Amounts | None = None
    ) -> SessionRecord:
        """Moves a session on; one that is over stays as it is.  Raises ServiceError NOT_FOUND.

        Args:
            session_id: which.
            state: a number of ``Session.State``.
            reason: why it is over, where it did not end as asked.
            epoch: a session that is in another one stays as it is; None: any.
            used: all that it has used, where the caller knows: its last usage record is written.
        """

        async def attempt(pipe: Pipeline) -> SessionRecord:
            await pipe.watch(session_key(session_id))
            stored = await pipe.hgetall(session_key(session_id))
            if not stored:
                raise not_found(session_id)
            record = SessionRecord.from_fields(stored)
            was_over = record.state in OVER
            if epoch not in (None, record.epoch) or (was_over and (used is None or not is_open(stored))):
                return record
            now = await now_ms(pipe)
            after = record if was_over else replace(record, state=state, end_reason=reason)
            begin(pipe)
            if not was_over:
                pipe.hset(session_key(session_id), mapping={"state": str(state), "end_reason": reason})
            if after.state in OVER:
                self._end(pipe, after, is_new=record.state == api.Session.STATE_CREATING)
                if used is not None:
                    self.usage.end(pipe, after, stored, used, now)
                elif is_open(stored):
                    pipe.zadd(DUE_KEY, {session_id: now + self._lease_ms})
                    pipe.pexpire(session_key(session_id), self._retention_ms + 3 * self._lease_ms)
            await pipe.execute()
            return after

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

    async def renew_all(
        self, records: Sequence[SessionRecord], used: Mapping[str, Amounts] | None = None
    ) -> Mapping[str, Renewal]:
        """Prolongs our leases, see ``Renewals.renew_all``."""
        return await self._renewals.renew_all(records, used or {})

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

    async def move(
        self, record: SessionRecord, pipeline: str, capacity: int, lost: str | None = None
    ) -> SessionRecord | None:
        """Gives a session a place in the next epoch, see ``move.move``; raises ServiceError NOT_FOUND."""
        try:
            return await move(self._redis, record, pipeline, capacity, self.owner, self._lease_ms, lost)
        except LookupError:
            raise not_found(record.session_id) from None

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

    async def settle(self) -> None:
        """Writes the last usage records of sessions that others ended and whose gateway has vanished."""
        for name in await self.usage.late():
            await self.usage.settle(name)

    async def _reap_one(self, session_id: str) -> SessionRecord | None:
        try:
            await self.take_over(session_id)
        except LeaseLostError:
            return None
        except (ServiceError, ValueError) as error:
            if isinstance(error, ServiceError) and error.reason != SESSION_NOT_FOUND:
                raise
            # It is gone, or not of our making: there is nothing to end.
            async with reported():
                await self._redis.zrem(OPEN_KEY, session_id)
            return None
        used = await self.usage.running(session_id)
        return await self.set_state(session_id, api.Session.STATE_FAILED, GATEWAY_LOST, used=used)

    def _put(self, pipe: Pipeline, record: SessionRecord, now: int) -> None:
        keep_ms = record.expire_ms - now + self._retention_ms
        key, index = session_key(record.session_id), tenant_key(record.tenant)
        pipe.hset(key, mapping=record.to_fields())
        pipe.pexpire(key, max(keep_ms, self._retention_ms))
        pipe.set(lease_key(record.session_id), lease_value(self.owner, record.epoch), px=self._lease_ms)
        pipe.zadd(OPEN_KEY, {record.session_id: now + self._lease_ms})
        pipe.zadd(quotas.concurrent_key(record.tenant), {record.session_id: now + self._lease_ms})
        pipe.zadd(index, {record.session_id: record.create_ms})
        pipe.zremrangebyscore(index, "-inf", now - self._longest_ms - self._retention_ms)

    def _restore(self, pipe: Pipeline, record: SessionRecord, now: int) -> None:
        """Stores a session of ours that Redis has lost; its use is recorded from now on."""
        self._put(pipe, record, now)
        self.usage.start(pipe, record, {})
        if record.request_id:
            by_request = request_key(record.tenant, record.request_id)
            pipe.set(by_request, record.session_id, px=max(1, record.expire_ms - now) + self._retention_ms)

    def _end(self, pipe: Pipeline, record: SessionRecord, *, is_new: bool) -> None:
        pipe.delete(lease_key(record.session_id), point_key(record.session_id, record.point_epoch))
        pipe.zrem(OPEN_KEY, record.session_id)
        pipe.zrem(quotas.concurrent_key(record.tenant), record.session_id)
        pipe.zrem(slots_key(record.pipeline), record.session_id)
        pipe.pexpire(session_key(record.session_id), self._retention_ms)
        if record.request_id:
            # A session that never came to be must not be found by those who ask for it again.
            keep_ms = 1 if is_new else self._retention_ms
            pipe.pexpire(request_key(record.tenant, record.request_id), keep_ms)


def not_found(session_id: str) -> ServiceError:
    """The answer where there is no such session, or where it is another tenant's."""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND, SESSION_NOT_FOUND, "there is no such session", {"session_id": session_id[:64]}
    )
