"""The session store, on the Redis inside the process and on a real server."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace

import grpc
import pytest
from redis.asyncio import Redis

from live_avatar.services.gateway.store.records import LeaseLostError, SessionRecord, session_key
from live_avatar.services.gateway.store.redis_access import IN_MEMORY, connect
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

ACTIVE, CLOSED, FAILED = api.Session.STATE_ACTIVE, api.Session.STATE_CLOSED, api.Session.STATE_FAILED
LEASE_MS = 300
Scenario = Callable[[SessionStore, Redis], Awaitable[None]]


@pytest.fixture(params=["memory", "server"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return IN_MEMORY
    address: str = request.getfixturevalue("redis_server")
    return address


def play(url: str, scenario: Scenario, lease_ms: int = 10_000) -> None:
    """Runs a scenario on an empty store."""

    async def run() -> None:
        client = connect(url)
        await client.flushall()
        store = open_store(client, lease_ms=lease_ms)
        try:
            await scenario(store, client)
        finally:
            await store.aclose()

    asyncio.run(run())


def open_store(client: Redis, owner: str = "one", lease_ms: int = 10_000) -> SessionStore:
    return SessionStore(client, owner=owner, lease_ms=lease_ms, retention_ms=60_000, longest_ms=60_000)


async def reap(store: SessionStore, held: Collection[str] = ()) -> Sequence[SessionRecord]:
    """Ends what is late, as the keeper does it."""
    return await store.reap(await store.late(held))


def record(session_id: str = "a", request_id: str = "", tenant: str = "t") -> SessionRecord:
    return SessionRecord(
        session_id=session_id, tenant=tenant, state=ACTIVE, config=b"\x00\xff", token_hash=b"\x01\x80",
        request_hash=b"h", request_id=request_id, pipeline="", endpoint="", max_duration_ms=10_000,
        idle_timeout_ms=1_000,
    )  # fmt: skip


def test_what_is_stored_is_read_again(url: str) -> None:
    async def scenario(store: SessionStore, _: Redis) -> None:
        made, is_new = await store.create(record())
        assert is_new
        assert made.epoch == 1
        assert made.expire_ms - made.create_ms == 10_000
        assert await store.get("t", "a") == made
        assert await store.find("a") == made
        assert await store.find("b") is None

    play(url, scenario)


def test_another_tenants_session_is_not_found(url: str) -> None:
    async def scenario(store: SessionStore, _: Redis) -> None:
        await store.create(record())
        for tenant, session in (("u", "a"), ("t", "b")):
            with pytest.raises(ServiceError) as caught:
                await store.get(tenant, session)
            assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")

    play(url, scenario)


def test_a_hundred_calls_with_one_request_id_make_one_session(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        other = open_store(client, "two")
        calls = [(store, other)[index % 2].create(record(f"s{index}", "r")) for index in range(100)]
        results = await asyncio.gather(*calls)
        assert sum(is_new for _, is_new in results) == 1
        assert len({made.session_id for made, _ in results}) == 1
        made, is_new = await store.create(record("elsewhere", "r", tenant="u"))
        assert is_new
        assert made.session_id == "elsewhere"

    play(url, scenario)


def test_a_discarded_session_leaves_nothing_and_may_be_tried_again(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        made, _ = await store.create(record("a", "r"))
        placed = await store.reserve_slot(made, "p", 1)
        assert placed is not None
        await store.discard(placed)
        assert await client.keys("*") == []
        _, is_new = await store.create(record("b", "r"))
        assert is_new

    play(url, scenario)


def test_slots_are_never_more_than_the_capacity(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        stores = (store, open_store(client, "two"))
        made = [(await store.create(record(f"s{index}")))[0] for index in range(40)]
        asked = (stores[index % 2].reserve_slot(one, "p", 3) for index, one in enumerate(made))
        placed = [one for one in await asyncio.gather(*asked) if one is not None]
        assert len(placed) == 3
        assert {one.pipeline for one in placed} == {"p"}
        assert await store.count_slots("p") == 3
        await store.set_state(placed[0].session_id, CLOSED)
        assert await store.count_slots("p") == 2
        assert await store.reserve_slot(made[0], "p", 3) is not None
        assert await store.count_slots("q") == 0

    play(url, scenario)


def test_a_slot_ends_with_its_lease_and_lives_while_it_is_renewed(url: str) -> None:
    async def scenario(store: SessionStore, _: Redis) -> None:
        for name in ("kept", "left"):
            made, _new = await store.create(record(name))
            await store.reserve_slot(made, "p", 2)
        kept = await store.get("t", "kept")
        for _turn in range(4):
            await asyncio.sleep(LEASE_MS / 2000)
            await store.renew(kept)
        assert await store.count_slots("p") == 1

    play(url, scenario, LEASE_MS)


def test_pages_are_newest_first_and_complete(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        for index in range(7):
            await store.create(record(f"s{index}"))
            await asyncio.sleep(0.002)
        await store.create(record("foreign", tenant="u"))
        await client.delete(session_key("s4"))
        await client.zadd("live_avatar:tenant:t", {"broken": 1})
        await client.hset(session_key("broken"), "state", "1")
        seen, before, more = [], "", True
        while more:
            page, more = await store.list_page("t", 2, before)
            assert len(page) <= 2
            seen += [one.session_id for one in page]
            before = seen[-1]
        assert seen == ["s6", "s5", "s3", "s2", "s1", "s0"]
        with pytest.raises(ServiceError) as caught:
            await store.list_page("t", 2, "never")
        assert caught.value.field == "page_token"

    play(url, scenario)


def test_a_session_that_is_over_stays_over_and_can_still_be_read(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        made, _ = await store.create(record())
        assert (await store.set_state("a", CLOSED)).state == CLOSED
        assert (await store.set_state("a", FAILED)).state == CLOSED
        assert (await store.get("t", "a")).state == CLOSED
        assert 0 < await client.pttl(session_key("a")) <= 60_000
        with pytest.raises(LeaseLostError):
            await store.renew(made)
        with pytest.raises(LeaseLostError):
            await store.take_over("a")
        with pytest.raises(ServiceError, match="NOT_FOUND"):
            await store.activate(replace(made, state=ACTIVE))

    play(url, scenario)


def test_a_lease_is_held_by_one_and_taken_over_with_the_next_epoch(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        other = open_store(client, "two", LEASE_MS)
        made, _ = await store.create(record())
        await store.renew(made)
        with pytest.raises(LeaseLostError):
            await other.take_over("a")
        await asyncio.sleep(LEASE_MS / 1000 + 0.05)
        outcomes = await asyncio.gather(store.take_over("a"), other.take_over("a"), return_exceptions=True)
        taken = [outcome for outcome in outcomes if isinstance(outcome, SessionRecord)]
        assert [one.epoch for one in taken] == [2]
        with pytest.raises(LeaseLostError):
            await store.renew(made)

    play(url, scenario, LEASE_MS)


def test_sessions_of_a_vanished_gateway_are_reaped_once(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        other = open_store(client, "two", LEASE_MS)
        made, _ = await store.create(record())
        await store.reserve_slot(made, "p", 1)
        kept, _ = await other.create(record("b"))
        assert await reap(other) == []
        await asyncio.sleep(LEASE_MS / 2000)
        await other.renew(kept)
        await asyncio.sleep(LEASE_MS / 2000 + 0.03)
        reaped = await asyncio.gather(reap(other), reap(store))
        assert [one.session_id for page in reaped for one in page] == ["a"]
        assert (await store.get("t", "a")).state == FAILED
        assert await store.count_slots("p") == 0
        assert (await store.get("t", "b")).state == ACTIVE

    play(url, scenario, LEASE_MS)


def test_what_is_no_session_does_not_stop_the_reaper(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        await client.zadd("live_avatar:open", {"gone": 1, "broken": 1})
        await client.hset(session_key("broken"), "state", "1")
        await store.create(record())
        await asyncio.sleep(LEASE_MS / 1000 + 0.05)
        assert [one.session_id for one in await reap(store)] == ["a"]
        assert await client.zcard("live_avatar:open") == 0

    play(url, scenario, LEASE_MS)


def test_a_thousand_sessions_leave_no_leases_slots_or_open_entries(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        for index in range(1_000):
            made, _ = await store.create(record(f"s{index}", f"r{index}"))
            await store.reserve_slot(made, "p", 1)
            await store.set_state(made.session_id, CLOSED)
        assert await client.keys("live_avatar:lease:*") == []
        assert await client.exists("live_avatar:open", "live_avatar:slots:p") == 0
        assert await store.count_slots("p") == 0
        assert all([await client.pttl(key) > 0 for key in await client.keys("live_avatar:session:*")])

    play(url, scenario)


def test_a_redis_that_is_gone_is_an_error_of_ours_in_time() -> None:
    async def scenario() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            store = open_store(connect(f"redis://127.0.0.1:{probe.getsockname()[1]}/0"))
        began = time.monotonic()
        for call in (store.find("a"), store.create(record()), store.count_slots("p"), store.check(), reap(store)):
            with pytest.raises(ServiceError) as caught:
                await call
            assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_LOST")
            assert caught.value.retry_after_s
        assert time.monotonic() - began < 5
        await store.aclose()

    asyncio.run(scenario())


def test_a_stored_session_that_lacks_a_field_is_reported_by_name() -> None:
    fields = {name.encode(): value for name, value in record().to_fields().items()}
    assert SessionRecord.from_fields(fields) == record()
    assert SessionRecord.from_fields(fields | {b"newer": b"1"}) == record()
    older = {name: value for name, value in fields.items() if name != b"end_reason"}
    assert SessionRecord.from_fields(older) == record()
    del fields[b"epoch"]
    with pytest.raises(ValueError, match="epoch"):
        SessionRecord.from_fields(fields)


def test_a_cancellation_is_never_forgotten(url: str) -> None:
    """Whenever it comes: who renews leases in a loop must end when told to."""

    async def cancelled_after(turns: int, call: Awaitable[object]) -> bool:
        """Whether the call ended as cancelled, or before it could be."""
        task = asyncio.ensure_future(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = task.done()
        task.cancel()
        await asyncio.wait([task])
        return was_done or task.cancelled()

    async def scenario(store: SessionStore, _: Redis) -> None:
        made, _token = await store.create(record())
        for turns in range(25):
            assert await cancelled_after(turns, reap(store)), f"reap, cancelled after {turns} turns of the loop"
            assert await cancelled_after(turns, store.renew(made)), f"renew, cancelled after {turns} turns of the loop"

    play(url, scenario)
