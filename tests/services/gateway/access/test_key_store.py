"""API keys in the store."""

import asyncio
from dataclasses import replace

import pytest
from fakeredis import FakeAsyncRedis

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.caller import ALL_SCOPES
from live_avatar.services.gateway.access.key_records import ApiKeyRecord, record_key
from live_avatar.services.gateway.access.key_store import ApiKeyStore
from live_avatar.services.gateway.access.key_use import KeyUse
from live_avatar.services.gateway.store.redis_access import connect
from live_avatar.serving.errors import ServiceError


def new(tenant: str = "acme", name: str = "") -> ApiKeyRecord:
    key = ApiKey.generate()
    return ApiKeyRecord(key_id=key.key_id, tenant=tenant, scopes=ALL_SCOPES, digest=key.digest, name=name)


def test_what_is_stored_is_read_back_and_holds_no_secret(redis_server: str) -> None:
    async def scenario() -> None:
        client = connect(redis_server)
        store, key = ApiKeyStore(client), ApiKey.generate()
        made = await store.create(replace(new(name="Zoë's, of a test"), key_id=key.key_id, digest=key.digest), 60_000)
        assert made.expire_ms == made.create_ms + 60_000
        read, now = await store.read(key.key_id)
        assert read == made
        assert abs(now - made.create_ms) < 60_000
        for raw in [await client.hgetall(record_key(key.key_id))]:
            assert key.secret.encode() not in b"".join(raw.values())  # type: ignore[arg-type]
        assert (await store.read("nobody"))[0] is None
        await store.aclose()

    asyncio.run(scenario())


def test_pages_hold_the_newest_first_and_end_at_the_tenant(redis_server: str) -> None:
    async def scenario() -> None:
        store = ApiKeyStore(connect(redis_server))
        mine = []
        for number in range(5):
            mine.append((await store.create(new("one", f"{number}"))).name)
            await asyncio.sleep(0.002)
        theirs = await store.create(new("two"))
        first, more = await store.list_page("one", 3)
        rest, end = await store.list_page("one", 3, first[-1].key_id)
        assert [one.name for one in (*first, *rest)] == mine[::-1]
        assert (more, end) == (True, False)
        with pytest.raises(ServiceError, match="PAGE_TOKEN_INVALID"):
            await store.list_page("one", 3, theirs.key_id)
        every, _ = await store.list_page(None, 100)
        assert {one.tenant for one in every} >= {"one", "two"}
        await store.aclose()

    asyncio.run(scenario())


def test_revoking_twice_changes_nothing(redis_server: str) -> None:
    async def scenario() -> None:
        store = ApiKeyStore(connect(redis_server))
        made = await store.create(new())
        once = await store.revoke(made.key_id)
        assert once is not None and once.revoke_ms
        await asyncio.sleep(0.01)
        assert await store.revoke(made.key_id) == once
        assert await store.revoke("nobody") is None
        await store.aclose()

    asyncio.run(scenario())


def test_keys_that_do_not_work_make_room() -> None:
    async def scenario() -> None:
        store = ApiKeyStore(FakeAsyncRedis(), max_keys=2)
        first, second = await store.create(new()), await store.create(new())
        with pytest.raises(ServiceError, match="TOO_MANY_KEYS"):
            await store.create(new())
        await store.revoke(second.key_id)
        third = await store.create(new())
        kept, _ = await store.list_page("acme", 10)
        assert {one.key_id for one in kept} == {first.key_id, third.key_id}
        assert (await store.read(second.key_id))[0] is None

    asyncio.run(scenario())


def test_a_use_is_written_once_a_minute_and_makes_no_key(redis_server: str) -> None:
    async def scenario() -> None:
        client = connect(redis_server)
        store, now = ApiKeyStore(client), [0.0]
        made = await store.create(new())
        use = KeyUse(store, clock=lambda: now[0])
        running = asyncio.ensure_future(use.run())
        use.note(made.key_id)
        use.note("nobody-of-this-name")
        first = await written(store, made.key_id, after=0)
        use.note(made.key_id)
        await asyncio.sleep(0.05)
        assert (await store.read(made.key_id))[0] == replace(made, last_use_ms=first)
        now[0] += 61
        use.note(made.key_id)
        await written(store, made.key_id, after=first)
        assert not await client.exists(record_key("nobody-of-this-name"))
        running.cancel()
        await store.aclose()

    asyncio.run(scenario())


async def written(store: ApiKeyStore, key_id: str, after: int) -> int:
    """The time of the last use, once it is later than ``after``."""
    async with asyncio.timeout(20):
        while True:
            record, _ = await store.read(key_id)
            assert record is not None
            if record.last_use_ms > after:
                return record.last_use_ms
            await asyncio.sleep(0.01)
