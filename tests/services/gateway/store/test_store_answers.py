"""The session store behind a line that loses answers or brings them late."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from live_avatar.services.gateway.store.records import LeaseLostError, SessionRecord, lease_key, session_key
from live_avatar.services.gateway.store.redis_access import as_text, connect
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.redis_proxy import RedisProxy, redis_proxy
from tests.services.gateway.store.test_store import open_store, reap, record

CREATING, ACTIVE = api.Session.STATE_CREATING, api.Session.STATE_ACTIVE
CLOSED, FAILED = api.Session.STATE_CLOSED, api.Session.STATE_FAILED
LEASE_MS = 400
Call = Callable[[SessionStore], Awaitable[object]]
NEW = replace(record("new", "again"), state=CREATING)
HELD, LEFT = replace(record("held", "before"), state=ACTIVE), replace(record("left"), state=ACTIVE)


async def prepare(client: Redis) -> dict[str, SessionRecord]:
    """A session of ours, one of which the lease has ended, and one that is over."""
    await client.flushall()
    store = open_store(client, "one", 60_000)
    made = {}
    for one in (HELD, LEFT, record("over")):
        stored, _ = await store.create(one)
        placed = await store.reserve_slot(stored, "p", 9)
        assert placed is not None
        made[one.session_id] = placed
    await store.set_state("over", CLOSED)
    await client.delete(lease_key("left"))
    await client.zadd("live_avatar:open", {"left": 1})
    return made


CALLS: dict[str, Callable[[SessionStore, dict[str, SessionRecord]], Awaitable[object]]] = {
    "check": lambda store, made: store.check(),
    "create": lambda store, made: store.create(NEW),
    "create without a request id": lambda store, made: store.create(replace(NEW, request_id="")),
    "create again": lambda store, made: store.create(replace(NEW, request_id="before")),
    "discard": lambda store, made: store.discard(made["held"]),
    "find": lambda store, made: store.find("held"),
    "get": lambda store, made: store.get("t", "held"),
    "list": lambda store, made: store.list_page("t", 2),
    "activate": lambda store, made: store.activate(replace(made["held"], config=b"else")),
    "close": lambda store, made: store.set_state("held", CLOSED),
    "fail": lambda store, made: store.set_state("held", FAILED, "IDLE"),
    "close what is over": lambda store, made: store.set_state("over", FAILED, "IDLE"),
    "holder": lambda store, made: store.holder("held"),
    "renew": lambda store, made: store.renew(made["held"]),
    "renew all": lambda store, made: store.renew_all([made["held"], made["left"]]),
    "take over": lambda store, made: store.take_over("left"),
    "take over what is held": lambda store, made: store.take_over("held"),
    "reserve": lambda store, made: store.reserve_slot(made["held"], "q", 1),
    "reserve where it is full": lambda store, made: store.reserve_slot(
        replace(made["held"], session_id="left"), "p", 1
    ),
    "count on all pipelines": lambda store, made: store.count_all_slots(["p", "q"]),
    "count": lambda store, made: store.count_slots("p"),
    "reap": lambda store, made: reap(store),
    "reap what is held": lambda store, made: reap(store, {"left"}),
}


async def outcome(proxy: RedisProxy, call: Any, dropped: int | None) -> tuple[object, object]:
    """What a call answers and leaves, on a fresh connection of which one answer is lost."""
    direct = connect(proxy.server)
    made = await prepare(direct)
    proxy.commands, proxy.dropped = 0, dropped
    store = open_store(connect(proxy.url), "one", 60_000)
    try:
        answer: object = await call(store, made)
    except (ServiceError, LeaseLostError) as error:
        answer = repr(error)
    left = await everything(direct)
    await store.aclose()
    await direct.aclose(close_connection_pool=True)
    return timeless(answer), left


def timeless(answer: object) -> str:
    """An answer without the times in it."""
    return re.sub(r"(create_ms|expire_ms)=\d+", r"\1", repr(answer))


async def everything(client: Redis) -> dict[str, object]:
    """What is stored, without times."""
    found: dict[str, object] = {}
    for key in sorted(await client.keys("*")):
        name = as_text(key)
        match await client.type(key):
            case b"hash":
                fields = await client.hgetall(key)
                for field in (b"create_ms", b"expire_ms", b"claim", b"usage_claim"):
                    fields.pop(field, None)
                found[name] = fields
            case b"zset":
                found[name] = set(await client.zrange(key, 0, -1))
            case b"stream":
                entries: Any = await client.xrange(key)
                found[name] = [values for _, values in entries]
            case b"set":
                found[name] = set(await client.smembers(key))
            case _:
                found[name] = await client.get(key)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_lost_answer_changes_neither_result_nor_store(redis_server: str, name: str) -> None:
    async def scenario() -> None:
        async with redis_proxy(redis_server) as proxy:
            undisturbed = await outcome(proxy, CALLS[name], None)
            commands = proxy.commands
            assert commands
            for dropped in range(commands):
                assert await outcome(proxy, CALLS[name], dropped) == undisturbed, f"answer {dropped} of {commands}"

    asyncio.run(scenario())


def test_a_slow_store_renews_a_thousand_leases_within_a_third_of_their_time(redis_server: str) -> None:
    """And one answer that does not come delays those alone that share it."""

    async def scenario() -> None:
        async with redis_proxy(redis_server) as proxy:
            direct = connect(redis_server)
            await direct.flushall()
            one = open_store(direct, "one", 10_000)
            made = [(await one.create(record(f"s{index}")))[0] for index in range(1_000)]
            slow = open_store(connect(proxy.url), "one", 60_000)
            proxy.delay_s = lambda: 0.2
            began = time.monotonic()
            parts = [made[first : first + 128] for first in range(0, 1_000, 128)]
            outcomes = await asyncio.gather(*map(slow.renew_all, parts))
            assert time.monotonic() - began < 10 / 3
            assert all(outcome is None for part in outcomes for outcome in part.values())
            assert all([await direct.pttl(lease_key(one.session_id)) > 10_000 for one in made])
            await slow.aclose()
            await one.aclose()

    asyncio.run(scenario())


def test_a_lease_that_ended_while_the_store_was_away_is_taken_back(redis_server: str) -> None:
    async def scenario() -> None:
        client = connect(redis_server)
        await client.flushall()
        before = open_store(client, "one", LEASE_MS)
        made = {name: (await before.create(record(name)))[0] for name in ("free", "taken", "closed", "lost")}
        placed = await before.reserve_slot(made["free"], "p", 1)
        assert placed is not None
        one, two = open_store(client, "one", 60_000), open_store(client, "two", 60_000)
        await asyncio.sleep(LEASE_MS / 1000 + 0.1)
        await two.take_over("taken")
        await two.set_state("closed", CLOSED)
        await client.delete(session_key("lost"))
        outcomes = await one.renew_all([placed, made["taken"], made["closed"], made["lost"]])
        assert outcomes["free"] is None
        assert await one.holder("free") == "one"
        assert await one.count_slots("p") == 1
        with pytest.raises(LeaseLostError):
            await two.take_over("free")
        lost = {name: error for name, error in outcomes.items() if isinstance(error, LeaseLostError)}
        states = {name: error.record and error.record.state for name, error in lost.items()}
        assert states == {"taken": ACTIVE, "closed": CLOSED}
        assert await client.exists(lease_key("closed")) == 0
        restored = await one.get(made["lost"].tenant, "lost")
        assert restored == made["lost"]
        assert await one.holder("lost") == "one"
        assert await two.holder("taken") == "two"
        await one.aclose()

    asyncio.run(scenario())


def test_a_store_that_hangs_is_an_error_of_ours_in_time(redis_server: str) -> None:
    """Every answer is late for ever: no call waits for as many answers as it may repeat itself."""

    async def scenario() -> None:
        async with redis_proxy(redis_server) as proxy:
            store = open_store(connect(proxy.url))
            await store.check()
            proxy.delay_s = lambda: 60.0
            began = time.monotonic()
            for outcome in await asyncio.gather(
                store.create(record()), store.check(), store.find("a"), reap(store), return_exceptions=True
            ):
                assert isinstance(outcome, ServiceError)
                assert outcome.reason == "STORE_LOST"
            assert time.monotonic() - began < 10
            proxy.cut()
            await store.aclose()

    asyncio.run(scenario())


def test_a_request_id_of_a_session_that_was_never_made_is_free(redis_server: str) -> None:
    async def scenario() -> None:
        client = connect(redis_server)
        await client.flushall()
        one, two = open_store(client, "one", LEASE_MS), open_store(client, "two", LEASE_MS)
        await one.create(NEW)
        await asyncio.sleep(LEASE_MS / 1000 + 0.1)
        assert [left.end_reason for left in await reap(two)] == ["GATEWAY_LOST"]
        await asyncio.sleep(0.01)
        _, is_new = await two.create(replace(NEW, session_id="another"))
        assert is_new
        await one.discard(NEW)
        found, is_new = await one.create(replace(NEW, session_id="third"))
        assert (found.session_id, is_new) == ("another", False), "a discard frees no other session's request id"
        await one.aclose()

    asyncio.run(scenario())
