"""What a gateway remembers of API keys, and for how long."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc
import pytest
from fakeredis import FakeAsyncRedis

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.caller import Scope
from live_avatar.services.gateway.access.key_cache import CACHE_S, OUTAGE_S, KeyCache
from live_avatar.services.gateway.access.key_records import ApiKeyRecord
from live_avatar.services.gateway.access.key_store import ApiKeyStore
from live_avatar.services.gateway.store.redis_access import store_lost
from live_avatar.serving.errors import ServiceError


class CountedStore(ApiKeyStore):
    """Counts reads, and is away while it is told to be."""

    def __init__(self) -> None:
        super().__init__(FakeAsyncRedis())
        self.reads = 0
        self.away = False

    async def read(self, key_id: str) -> tuple[ApiKeyRecord | None, int]:
        self.reads += 1
        if self.away:
            raise store_lost()
        return await super().read(key_id)


class Bench:
    """A store, a cache in front of it, and a clock that stands still."""

    def __init__(self, most: int = 100) -> None:
        self.now = 100.0
        self.store = CountedStore()
        self.cache = KeyCache(self.store, most, clock=lambda: self.now)

    async def key(self, lifetime_ms: int = 0) -> ApiKey:
        key = ApiKey.generate()
        record = ApiKeyRecord(
            key_id=key.key_id, tenant="acme", scopes=frozenset({Scope.SESSIONS}), digest=key.digest, name="of a test"
        )
        await self.store.create(record, lifetime_ms)
        return key


async def refusal(check: Coroutine[Any, Any, ApiKeyRecord]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(ServiceError) as refused:
        await check
    return refused.value.code, refused.value.reason


INVALID = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


def wrong(key: ApiKey) -> ApiKey:
    return ApiKey(key.key_id, ApiKey.generate().secret)


def test_a_key_is_read_once_within_the_time_of_the_cache() -> None:
    async def scenario() -> None:
        bench = Bench()
        key = await bench.key()
        records = await asyncio.gather(*(bench.cache.check(key) for _ in range(50)))
        assert {(one.tenant, one.scopes) for one in records} == {("acme", frozenset({Scope.SESSIONS}))}
        assert bench.store.reads == 1
        bench.now += CACHE_S + 0.1
        await bench.cache.check(key)
        assert bench.store.reads == 2

    asyncio.run(scenario())


def test_unknown_ids_are_remembered_too_and_a_wrong_secret_looks_the_same() -> None:
    async def scenario() -> None:
        bench = Bench()
        key, nobody = await bench.key(), ApiKey.generate()
        for _ in range(20):
            assert await refusal(bench.cache.check(nobody)) == INVALID
            assert await refusal(bench.cache.check(wrong(key))) == INVALID
        assert bench.store.reads == 2
        assert not bench.cache.remembers(wrong(key))
        assert not bench.cache.remembers(nobody)
        assert bench.cache.remembers(key)

    asyncio.run(scenario())


def test_a_revoked_key_stops_with_the_cache_and_only_its_holder_learns_why() -> None:
    async def scenario() -> None:
        bench = Bench()
        key = await bench.key()
        await bench.cache.check(key)
        await bench.store.revoke(key.key_id)
        bench.now += CACHE_S + 0.1
        assert (await refusal(bench.cache.check(key)))[1] == "KEY_REVOKED"
        assert await refusal(bench.cache.check(wrong(key))) == INVALID

    asyncio.run(scenario())


def test_a_key_expires_between_two_reads() -> None:
    async def scenario() -> None:
        bench = Bench()
        key = await bench.key(lifetime_ms=1_000)
        await bench.cache.check(key)
        bench.now += 1.5
        assert (await refusal(bench.cache.check(key)))[1] == "CREDENTIAL_EXPIRED"
        assert await refusal(bench.cache.check(wrong(key))) == INVALID
        assert bench.store.reads == 1

    asyncio.run(scenario())


def test_while_the_store_is_away_known_keys_work_for_a_bounded_time() -> None:
    async def scenario() -> None:
        bench = Bench()
        key, other = await bench.key(), await bench.key()
        await bench.cache.check(key)
        bench.store.away = True
        bench.now += OUTAGE_S - 0.1
        await bench.cache.check(key)
        lost = (grpc.StatusCode.UNAVAILABLE, "STORE_LOST")
        assert await refusal(bench.cache.check(other)) == lost
        bench.now += 0.2
        assert await refusal(bench.cache.check(key)) == lost
        bench.store.away = False
        await bench.cache.check(key)

    asyncio.run(scenario())


def test_a_caller_that_leaves_does_not_end_the_check_of_others() -> None:
    async def scenario() -> None:
        bench = Bench()
        key = await bench.key()
        first = asyncio.ensure_future(bench.cache.check(key))
        second = asyncio.ensure_future(bench.cache.check(key))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).key_id == key.key_id
        assert bench.store.reads == 1

    asyncio.run(scenario())


def test_guesses_do_not_push_known_keys_out() -> None:
    async def scenario() -> None:
        bench = Bench(most=10)
        key = await bench.key()
        await bench.cache.check(key)
        for _ in range(100):
            assert await refusal(bench.cache.check(ApiKey.generate())) == INVALID
        assert bench.cache.remembers(key)
        assert len(bench.cache._unknown) == 10

    asyncio.run(scenario())
