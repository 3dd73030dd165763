"""Quotas and usage records in the session store, on the Redis inside the process and on a real server."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from live_avatar.services.gateway.store.quotas import QuotaError, Quotas, QuotaUsage, over
from live_avatar.services.gateway.store.records import SessionRecord, lease_key, session_key
from live_avatar.services.gateway.store.redis_access import IN_MEMORY, connect
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.services.gateway.store.usage import Amounts
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.usage_service_pb2 import UsageRecord
from tests.services.gateway.redis_proxy import RedisProxy, redis_proxy
from tests.services.gateway.store.test_store import open_store, play, reap, record
from tests.services.gateway.store.test_store_answers import everything, timeless

ACTIVE, CLOSED, FAILED = api.Session.STATE_ACTIVE, api.Session.STATE_CLOSED, api.Session.STATE_FAILED
STARTED, PROGRESS, ENDED = UsageRecord.KIND_STARTED, UsageRecord.KIND_PROGRESS, UsageRecord.KIND_ENDED
LEASE_MS = 300
SECOND = 1_000_000_000
Row = tuple[str, int, int, int, int, int, str]


@pytest.fixture(params=["memory", "server"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return IN_MEMORY
    address: str = request.getfixturevalue("redis_server")
    return address


def used(seconds: float, blocks: int, **services: int) -> Amounts:
    return Amounts(media_ns=round(seconds * SECOND), blocks=blocks, service_ns=services)


async def started(store: SessionStore, name: str = "a", quotas: Quotas | None = None) -> SessionRecord:
    """A session that has begun."""
    made, _ = await store.create(record(name), quotas)
    await store.activate(replace(made, state=ACTIVE, preset="TINY", key_id="k"))
    return await store.get("t", name)


async def rows(store: SessionStore) -> Sequence[Row]:
    """All records: session, epoch, number, kind, milliseconds, blocks, reason."""
    return [
        (one.session_id, one.epoch, one.number, one.kind, one.media_time.ToMilliseconds(), one.blocks, one.end_reason)
        for _, one in await store.usage.read()
    ]


async def outcomes(calls: Sequence[Awaitable[Any]]) -> tuple[int, list[QuotaError]]:
    """How many calls went well, and the quotas that the others broke."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [one for one in results if isinstance(one, QuotaError)]
    others = [one for one in results if isinstance(one, BaseException) and not isinstance(one, QuotaError)]
    assert others == []
    return len(results) - len(errors), errors


def test_fifty_calls_at_once_on_two_gateways_make_five_sessions(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        stores, quotas = (store, open_store(client, "two")), Quotas(max_concurrent_sessions=5)
        made, errors = await outcomes([stores[turn % 2].create(record(f"s{turn}"), quotas) for turn in range(50)])
        assert (made, len(errors)) == (5, 45)
        assert {(one.reason, one.quota, one.code) for one in errors} == {
            ("TENANT_QUOTA", "max_concurrent_sessions", grpc.StatusCode.RESOURCE_EXHAUSTED)
        }
        assert (await store.quotas.use("t")).concurrent_sessions == 5
        assert (await store.create(record("foreign", tenant="u"), quotas))[1]

    play(url, scenario)


def test_places_are_free_again_after_an_end_a_lost_gateway_and_a_failed_creation(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        quotas = Quotas(max_concurrent_sessions=1)
        ended = await started(store, "ended", quotas)
        with pytest.raises(QuotaError) as caught:
            await store.create(record("b"), quotas)
        assert caught.value.retry_after_s is not None
        assert caught.value.violation is not None
        assert caught.value.violation.subject == "t"
        assert "max_concurrent_sessions" in caught.value.violation.description
        await store.set_state("ended", CLOSED, epoch=ended.epoch, used=Amounts())
        discarded, _ = await store.create(record("discarded"), quotas)
        await store.discard(discarded)
        lost, _ = await store.create(record("lost"), quotas)
        await asyncio.sleep(2 * LEASE_MS / 3000)
        await store.renew(lost)
        await asyncio.sleep(2 * LEASE_MS / 3000)
        with pytest.raises(QuotaError):
            await store.create(record("c"), quotas)
        await asyncio.sleep(LEASE_MS / 1000)
        await store.create(record("d"), quotas)

    play(url, scenario, LEASE_MS)


def test_calls_of_a_minute_count_also_where_they_are_rejected(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        quotas = Quotas(max_concurrent_sessions=1, max_sessions_per_minute=20)
        await store.create(record("a"), quotas)
        made, errors = await outcomes([store.create(record(f"s{turn}"), quotas) for turn in range(10)])
        assert (made, {error.quota for error in errors}) == (0, {"max_concurrent_sessions"})
        used = (await store.quotas.use("t")).sessions_this_minute
        made, errors = await outcomes(
            [store.create(record(f"r{turn}"), replace(quotas, max_concurrent_sessions=0)) for turn in range(60)]
        )
        if await minute(client) == began[0]:
            assert (used, made) == (11, 9)
        assert made <= 29, "at most what is left of one minute and all of the next"
        waits = [error.retry_after_s or 0 for error in errors if error.quota == "max_sessions_per_minute"]
        assert waits
        assert all(0 < wait <= 60 for wait in waits)

    async def in_one_minute(store: SessionStore, client: Redis) -> None:
        began[0] = await minute(client)
        await scenario(store, client)

    began = [0]
    play(url, in_one_minute)


async def minute(client: Redis) -> int:
    seconds, _ = await client.time()
    return int(seconds) // 60


def test_media_of_a_day_and_a_month_are_counted_and_refuse_new_sessions(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        held = await started(store)
        assert await store.usage.record(held, used(7.5, 15)) is not None
        await store.set_state("a", CLOSED, epoch=1, used=used(10.2, 21))
        use = await store.quotas.use("t")
        assert (use.media_ms_today, use.media_ms_this_month) == (10_200, 10_200)
        for quotas, name in (
            (Quotas(max_media_seconds_per_day=10), "max_media_seconds_per_day"),
            (Quotas(max_media_seconds_per_month=10), "max_media_seconds_per_month"),
        ):
            with pytest.raises(QuotaError) as caught:
                await store.create(record("b"), quotas)
            assert caught.value.quota == name
            assert 0 < (caught.value.retry_after_s or 0) <= 31 * 86_400
        await store.create(record("c"), Quotas(max_media_seconds_per_day=11))

    play(url, scenario)


@pytest.mark.parametrize(
    ("quota", "now", "wait_s"),
    [
        ("max_sessions_per_minute", 1_767_225_599_000, 1.0),  # 2025-12-31 23:59:59 UTC
        ("max_media_seconds_per_day", 1_767_225_599_000, 1.0),
        ("max_media_seconds_per_month", 1_767_225_599_000, 1.0),
        ("max_media_seconds_per_month", 1_772_236_800_000, 86_400.0),  # 2026-02-28 00:00:00 UTC
    ],
)
def test_it_says_when_there_is_some_again(quota: str, now: int, wait_s: float) -> None:
    use = QuotaUsage(sessions_this_minute=9, media_ms_today=9_000, media_ms_this_month=9_000)
    broken = over("t", use, Quotas(**{quota: 9}), now)
    assert broken is not None
    assert (broken.quota, broken.retry_after_s) == (quota, wait_s)
    assert over("t", use, Quotas(**{quota: 10}), now) is None


def test_records_hold_what_was_used_since_the_record_before(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        held = await started(store)
        await store.activate(replace(held, config=b"new prompt"))
        await store.usage.record(held, used(1.0, 2, stage=5, decoder=1))
        await store.usage.record(held, used(1.5, 3, stage=7, decoder=1))
        await store.set_state("a", FAILED, "IDLE", epoch=1, used=used(2.0, 4, stage=9, decoder=2))
        await store.set_state("a", FAILED, "IDLE", epoch=1, used=used(9.0, 9))
        assert await store.usage.record(held, used(9.0, 9)) is None
        assert await rows(store) == [
            ("a", 1, 0, STARTED, 0, 0, ""),
            ("a", 1, 1, PROGRESS, 1000, 2, ""),
            ("a", 1, 2, PROGRESS, 500, 1, ""),
            ("a", 1, 3, ENDED, 500, 1, "IDLE"),
        ]
        last = (await store.usage.read())[-1][1]
        assert (last.tenant, last.key_id, last.preset) == ("t", "k", "TINY")
        spent = {one.service: one.compute_time.ToNanoseconds() for one in last.service_times}
        assert spent == {"stage": 2, "decoder": 1}
        assert last.time.ToMilliseconds() > held.create_ms - 1

    play(url, scenario)


def test_the_reaper_records_what_was_used_by_the_last_renewal(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        held = await started(store)
        await store.usage.record(held, used(1.0, 2))
        await store.renew_all([held], {"a": used(3.0, 6)})
        await client.delete(lease_key("a"))
        await client.zadd("live_avatar:open", {"a": 1})
        other = open_store(client, "two")
        assert [one.end_reason for one in await reap(other)] == ["GATEWAY_LOST"]
        assert await store.usage.record(held, used(5.0, 9)) is None, "the session is not ours any more"
        await store.set_state("a", FAILED, "IDLE", epoch=1, used=used(5.0, 9))
        assert (await rows(store))[2:] == [("a", 2, 0, ENDED, 2000, 4, "GATEWAY_LOST")]
        assert not [key for key in await client.keys("*") if b"running" in key]

    play(url, scenario)


def test_what_another_gateway_closes_is_recorded_by_its_own(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        other = open_store(client, "two", LEASE_MS)
        for name in ("lives", "vanished"):
            held = await started(store, name)
            await store.renew_all([held], {name: used(1.0, 2)})
            await other.set_state(name, CLOSED)
        await store.set_state("lives", FAILED, "SESSION_CLOSED", epoch=1, used=used(1.5, 3))
        await other.settle()
        assert len(await rows(store)) == 3, "the gateway has the time of a lease"
        await asyncio.sleep(LEASE_MS / 1000 + 0.05)
        await other.settle()
        await other.settle()
        assert (await rows(store))[1:] == [
            ("vanished", 1, 0, STARTED, 0, 0, ""),
            ("lives", 1, 1, ENDED, 1500, 3, ""),
            ("vanished", 1, 1, ENDED, 1000, 2, ""),
        ]

    play(url, scenario)


def test_old_records_are_dropped_and_pages_go_on_after_a_position(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        held = await started(store)
        for turn in range(1, 8):
            await store.usage.record(held, used(turn, turn))
        first = await store.usage.read(count=3)
        rest = await store.usage.read(first[-1][0])
        assert [one.number for _, one in (*first, *rest)] == list(range(8))
        since = rest[2][1].time.ToMilliseconds() + 1
        assert all(one.time.ToMilliseconds() >= since for _, one in await store.usage.read(since_ms=since))
        await store.usage.trim(-60_000)
        assert len(await store.usage.read()) <= 8

    play(url, scenario)


LIMITED = Quotas(max_concurrent_sessions=2, max_sessions_per_minute=1_000)
NEW = record("new", "again")
Call = Callable[[SessionStore, SessionRecord], Awaitable[object]]
CALLS: dict[str, Call] = {
    "create": lambda store, held: store.create(NEW, LIMITED),
    "create without a place": lambda store, held: store.create(NEW, replace(LIMITED, max_concurrent_sessions=1)),
    "activate": lambda store, held: store.activate(replace(held, session_id="made")),
    "record": lambda store, held: store.usage.record(held, used(3.0, 6, stage=3)),
    "renew": lambda store, held: store.renew_all([held], {"held": used(3.0, 6)}),
    "end": lambda store, held: store.set_state("held", CLOSED, epoch=1, used=used(3.0, 6)),
    "end of what another closed": lambda store, held: store.set_state("closed", FAILED, epoch=1, used=used(3.0, 6)),
    "settle": lambda store, held: store.settle(),
    "reap": lambda store, held: reap(store),
    "discard": lambda store, held: store.discard(held),
    "overrides": lambda store, held: store.quotas.overrides("t"),
    "override": lambda store, held: store.quotas.override("t", {"max_concurrent_sessions": 3}),
    "use": lambda store, held: store.quotas.use("t"),
    "read": lambda store, held: store.usage.late(),
    "trim": lambda store, held: store.usage.trim(60_000),
}


async def prepare(client: Redis) -> SessionRecord:
    """A session that runs, one whose gateway is lost, two that others closed, and one that has not begun."""
    await client.flushall()
    store = open_store(client, "one", 60_000)
    held = await started(store, "held")
    await store.usage.record(held, used(1.0, 2, stage=1))
    for name in ("lost", "closed", "vanished"):
        running = await started(store, name)
        await store.renew_all([running], {name: used(2.0, 4)})
    await store.create(record("made"))
    await client.delete(lease_key("lost"))
    await client.zadd("live_avatar:open", {"lost": 1})
    await store.set_state("closed", CLOSED)
    await store.set_state("vanished", CLOSED)
    await client.zadd("live_avatar:usage_due", {"vanished": 1})
    return held


async def outcome(proxy: RedisProxy, call: Call, dropped: int | None) -> tuple[object, object]:
    """What a call answers and leaves, on a fresh connection of which one answer is lost."""
    direct = connect(proxy.server)
    held = await prepare(direct)
    proxy.commands, proxy.dropped = 0, dropped
    store = open_store(connect(proxy.url), "one", 60_000)
    try:
        answer: object = await call(store, held)
    except QuotaError as error:
        answer = repr(error)
    left = {name.rpartition(":")[0] if "calls" in name else name: it for name, it in (await everything(direct)).items()}
    await store.aclose()
    await direct.aclose(close_connection_pool=True)
    return timeless(answer), left


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


def test_a_session_that_expired_is_settled_without_a_record(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        await started(store)
        await store.set_state("a", CLOSED)
        await client.delete(session_key("a"))
        await client.zadd("live_avatar:usage_due", {"a": 1})
        await store.settle()
        assert await store.usage.late() == []
        assert len(await rows(store)) == 1

    play(url, scenario)


def test_what_is_no_session_is_left_alone(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        for name, (key, value) in {"strange": ("usage", "what"), "broken": ("epoch", "x")}.items():
            held = await started(store, name)
            await client.hset(session_key(name), key, value)
            await client.set(f"live_avatar:running:{name}", "{")
            await client.zadd("live_avatar:usage_due", {name: 1})
            assert await store.usage.record(held, used(1, 1)) is None
        await store.settle()
        assert await store.usage.late() == []
        assert len(await rows(store)) == 2

    play(url, scenario)


def test_amounts_of_a_newer_version_are_read() -> None:
    assert Amounts.from_json('{"media_ns": 5, "pixels": 7}') == Amounts(media_ns=5)
