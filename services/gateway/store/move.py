"""Moves a running session to a place on another pipeline, or anew on its own, or to another gateway, in the next epoch.

Knows records and Redis; nothing of why a session moves.
"""

from collections.abc import Collection
from dataclasses import replace

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from live_avatar.services.gateway.store.records import (
    OVER,
    SessionRecord,
    claims_key,
    lease_key,
    lease_value,
    point_key,
    session_key,
    slots_key,
)
from live_avatar.services.gateway.store.redis_access import as_text, begin, now_ms, transact
from live_avatar.services.gateway.store.renewals import claim_until, read_record
from live_avatar.v1 import avatar_service_pb2 as api


async def move(
    redis: Redis,
    record: SessionRecord,
    pipeline: str,
    capacity: int,
    owner: str,
    lease_ms: int,
    lost: str | None = None,
) -> SessionRecord | None:
    """Gives a session a place on ``pipeline`` and the next epoch; the place that it had is free.

    An attempt whose answer was lost has raised the epoch already, and this one raises it once more.

    Args:
        redis: where the session is stored.
        record: of the session.
        pipeline: may be the one on which it is.
        capacity: places there.
        owner: name of this gateway in leases.
        lease_ms: how long a lease lasts.
        lost: None: the session is ours.  Else it becomes ours, from the gateway of this name or where nobody holds it.

    Returns:
        The session as it is now; None where every place is taken.

    Raises:
        LookupError: the session is gone, over or another gateway's.
    """
    name, slots, claims = record.session_id, slots_key(pipeline), claims_key(pipeline)
    owners = {owner} if lost is None else {owner, lost}

    async def attempt(pipe: Pipeline) -> SessionRecord | None:
        await pipe.watch(claims, session_key(name), lease_key(name))
        stored, lease = await read_record(pipe, name), await pipe.get(lease_key(name))
        if stored is None or stored.state in OVER or not _may_move(record, stored, lease, owners):
            raise LookupError(name)
        now = await now_ms(pipe)
        until = await pipe.zscore(slots, name)
        is_there = until is not None and until >= now
        if not is_there and await pipe.zcount(slots, now, "+inf") >= capacity:
            return None
        moved = replace(record, pipeline=pipeline, epoch=stored.epoch + 1, state=api.Session.STATE_ACTIVE)
        if lost is not None:
            moved = replace(moved, point_epoch=moved.epoch)
        has_point = moved.point_epoch != stored.point_epoch and await pipe.exists(point_key(name, stored.point_epoch))
        begin(pipe)
        if has_point:
            pipe.rename(point_key(name, stored.point_epoch), point_key(name, moved.point_epoch))
        for left in {record.pipeline, stored.pipeline} - {pipeline}:
            pipe.zrem(slots_key(left), name)
        pipe.zremrangebyscore(slots, "-inf", f"({now}")
        pipe.hset(session_key(name), mapping=moved.to_fields())
        pipe.set(lease_key(name), lease_value(owner, moved.epoch), px=lease_ms)
        pipe.set(claims, name, px=lease_ms)
        claim_until(pipe, moved, now + lease_ms)
        await pipe.execute()
        return moved

    return await transact(redis, attempt)


def _may_move(record: SessionRecord, stored: SessionRecord, lease: object, owners: Collection[str]) -> bool:
    """One of ``owners`` holds the session, or nobody has taken it since the lease ended."""
    if lease is None:
        return stored.epoch == record.epoch
    return stored.epoch >= record.epoch and as_text(lease).rpartition(":")[0] in owners
