"""API keys in Redis, shared by all gateways.

Like those of the session store, transactions whose answer is lost are tried again and recognise what they did.  Knows
records; nothing of who may manage them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import grpc
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from live_avatar.services.gateway.access.key_records import ALL_KEYS, ApiKeyRecord, record_key, tenant_keys
from live_avatar.services.gateway.store.redis_access import as_text, begin, now_ms, reported, transact
from live_avatar.serving.errors import ServiceError

MAX_KEYS = 1_000
"""Of one tenant; the oldest of those that do not work any more make room for new ones."""


class ApiKeyStore:
    """All API keys of all tenants.

    Every method raises ``ServiceError`` UNAVAILABLE/STORE_LOST where Redis does not answer, and STORE_REFUSED where it
    refuses our credentials.

    Args:
        client: of Redis.
        max_keys: of one tenant.
    """

    def __init__(self, client: Redis, max_keys: int = MAX_KEYS) -> None:
        self._redis = client
        self._max_keys = max_keys

    async def create(self, record: ApiKeyRecord, lifetime_ms: int = 0) -> ApiKeyRecord:
        """Stores a new key; returns it with its times.

        Args:
            record: without times.
            lifetime_ms: how long it works; 0: until it is revoked.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED/TOO_MANY_KEYS; the tenant has as many as it may that still work.
        """
        index = tenant_keys(record.tenant)

        async def attempt(pipe: Pipeline) -> ApiKeyRecord:
            await pipe.watch(record_key(record.key_id), index)
            done = _as_record(await pipe.hgetall(record_key(record.key_id)))
            if done is not None:
                return done
            now = await now_ms(pipe)
            dropped = await self._dropped(pipe, index, now)
            new = replace(record, create_ms=now, expire_ms=now + lifetime_ms if lifetime_ms else 0)
            begin(pipe)
            for key_id in dropped:
                pipe.delete(record_key(key_id))
                pipe.zrem(index, key_id)
                pipe.zrem(ALL_KEYS, key_id)
            pipe.hset(record_key(new.key_id), mapping=new.to_fields())
            pipe.zadd(index, {new.key_id: now})
            pipe.zadd(ALL_KEYS, {new.key_id: now})
            await pipe.execute()
            return new

        return await transact(self._redis, attempt)

    async def _dropped(self, pipe: Pipeline, index: str, now: int) -> Sequence[str]:
        """Keys that make room for one more; raises ServiceError where there is none to be made."""
        if await pipe.zcard(index) < self._max_keys:
            return ()
        for raw in await pipe.zrange(index, 0, -1):
            record = _as_record(await pipe.hgetall(record_key(as_text(raw))))
            if record is None or record.is_dead(now):
                return (as_text(raw),)
        message = f"the tenant has {self._max_keys} API keys that work; revoke some"
        raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_KEYS", message)

    async def read(self, key_id: str) -> tuple[ApiKeyRecord | None, int]:
        """A key, None where there is none, and the time of the store in milliseconds."""
        async with reported(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(record_key(key_id))
            pipe.time()
            fields, (seconds, microseconds) = await pipe.execute()
        return _as_record(fields), int(seconds) * 1000 + int(microseconds) // 1000

    async def list_page(self, tenant: str | None, size: int, before: str = "") -> tuple[Sequence[ApiKeyRecord], bool]:
        """Keys of a tenant, newest first, ``size`` at most; after ``before`` where that is given.

        Args:
            tenant: whose; None: of all tenants.
            size: of the page.
            before: id of the last key on the page before.

        Returns:
            The keys, and whether more follow.

        Raises:
            ServiceError: INVALID_ARGUMENT/PAGE_TOKEN_INVALID; ``before`` is no key of the tenant.
        """
        index, start = ALL_KEYS if tenant is None else tenant_keys(tenant), 0
        async with reported():
            if before:
                position = await self._redis.zrevrank(index, before)
                if not isinstance(position, int):
                    raise _bad_page_token()
                start = position + 1
            ids = await self._redis.zrevrange(index, start, start + size)
            async with self._redis.pipeline(transaction=False) as pipe:
                for raw in ids:
                    pipe.hgetall(record_key(as_text(raw)))
                records = [_as_record(fields) for fields in await pipe.execute()]
        return [record for record in records[:size] if record is not None], len(ids) > size

    async def revoke(self, key_id: str) -> ApiKeyRecord | None:
        """Marks a key as revoked, once; returns it, None where there is none."""

        async def attempt(pipe: Pipeline) -> ApiKeyRecord | None:
            await pipe.watch(record_key(key_id))
            record = _as_record(await pipe.hgetall(record_key(key_id)))
            if record is None or record.revoke_ms:
                return record
            revoked = replace(record, revoke_ms=await now_ms(pipe))
            begin(pipe)
            pipe.hset(record_key(key_id), "revoke_ms", str(revoked.revoke_ms))
            await pipe.execute()
            return revoked

        return await transact(self._redis, attempt)

    async def note_use(self, key_id: str) -> None:
        """Stores that a key was used now; nothing where it is gone."""

        async def attempt(pipe: Pipeline) -> None:
            await pipe.watch(record_key(key_id))
            if not await pipe.exists(record_key(key_id)):
                return
            now = await now_ms(pipe)
            begin(pipe)
            pipe.hset(record_key(key_id), "last_use_ms", str(now))
            await pipe.execute()

        await transact(self._redis, attempt)

    async def aclose(self) -> None:
        """Ends the connections."""
        await self._redis.aclose(close_connection_pool=True)


def _as_record(fields: Mapping[Any, Any]) -> ApiKeyRecord | None:
    """The key in a hash; None where the hash is empty, or not of our making."""
    try:
        return ApiKeyRecord.from_fields(fields) if fields else None
    except ValueError:
        return None


def _bad_page_token() -> ServiceError:
    code = grpc.StatusCode.INVALID_ARGUMENT
    return ServiceError(code, "PAGE_TOKEN_INVALID", "the page token is unknown", field="page_token")
