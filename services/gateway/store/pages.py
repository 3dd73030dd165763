"""Pages of a tenant's sessions.

Knows Redis and records.
"""

from collections.abc import Sequence

import grpc
from redis.asyncio import Redis

from live_avatar.services.gateway.store.records import SessionRecord, session_key, tenant_key
from live_avatar.services.gateway.store.redis_access import as_text, reported
from live_avatar.services.gateway.store.renewals import as_record
from live_avatar.serving.errors import ServiceError


async def read_page(redis: Redis, tenant: str, size: int, before: str) -> tuple[Sequence[SessionRecord], bool]:
    """A tenant's sessions, newest first, ``size`` at most; after ``before`` where that is not empty.

    Returns:
        The sessions, and whether more follow.

    Raises:
        ServiceError: the store does not answer; INVALID_ARGUMENT where ``before`` is no session of the tenant's.
    """
    async with reported():
        index, found = tenant_key(tenant), list[SessionRecord]()
        start = 0
        if before:
            position = await redis.zrevrank(index, before)
            if position is None:
                raise _bad_page_token()
            assert isinstance(position, int), "a rank without a score is a number"
            start = position + 1
        while len(found) <= size:
            ids = await redis.zrevrange(index, start, start + size)
            if not ids:
                break
            found += await _read_all(redis, [as_text(raw) for raw in ids])
            start += len(ids)
        return found[:size], len(found) > size


async def _read_all(redis: Redis, session_ids: Sequence[str]) -> Sequence[SessionRecord]:
    """Those of the sessions that are stored, in one question; what is no session of ours is left out."""
    async with redis.pipeline(transaction=False) as pipe:
        for session_id in session_ids:
            pipe.hgetall(session_key(session_id))
        records = map(as_record, await pipe.execute())
        return [record for record in records if record is not None]


def _bad_page_token() -> ServiceError:
    code = grpc.StatusCode.INVALID_ARGUMENT
    return ServiceError(code, "PAGE_TOKEN_INVALID", "the page token is unknown", field="page_token")
