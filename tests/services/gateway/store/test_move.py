"""A session of ours goes on in the next epoch, on its own pipeline or another, and nobody else's does."""

from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from live_avatar.services.gateway.store.records import LeaseLostError, SessionRecord, lease_key
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.services.gateway.store.usage import Amounts
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.usage_service_pb2 import UsageRecord
from tests.services.gateway.store.test_store import open_store, play, record, url

__all__ = ["url"]


async def placed(store: SessionStore, pipeline: str = "left", name: str = "a") -> SessionRecord:
    made, _ = await store.create(record(name))
    there = await store.reserve_slot(made, pipeline, 1)
    assert there is not None
    await store.activate(there)
    return there


def test_the_place_changes_with_the_epoch(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        before = await placed(store)
        moved = await store.move(before, "right", 1)
        assert moved is not None
        assert (moved.pipeline, moved.epoch, moved.state) == ("right", 2, api.Session.STATE_ACTIVE)
        assert await store.get("t", "a") == moved
        assert await store.count_all_slots(["left", "right"]) == {"left": 0, "right": 1}
        await store.renew(moved)
        with pytest.raises(LeaseLostError):
            await store.renew(before)

    play(url, scenario)


def test_its_own_place_is_still_its_own(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        moved = await store.move(await placed(store), "left", 1)
        assert moved is not None and (moved.pipeline, moved.epoch) == ("left", 2)
        assert await store.count_slots("left") == 1

    play(url, scenario)


def test_a_full_pipeline_takes_nobody_and_nothing_changes(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        before = await placed(store)
        await placed(store, "right", "b")
        assert await store.move(before, "right", 1) is None
        assert await store.get("t", "a") == before
        await store.renew(before)

    play(url, scenario)


def test_an_answer_that_was_lost_does_not_matter(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        before = await placed(store)
        assert await store.move(before, "right", 1) is not None
        again = await store.move(before, "right", 1)
        assert again is not None and again.epoch == 3
        assert await store.count_all_slots(["left", "right"]) == {"left": 0, "right": 1}

    play(url, scenario)


@pytest.mark.parametrize("fate", ["taken", "closed", "gone"])
def test_a_session_that_is_not_ours_any_more_stays_as_it_is(url: str, fate: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        before = await placed(store)
        if fate == "taken":
            await client.delete(lease_key("a"))
            await open_store(client, "two").take_over("a")
        elif fate == "closed":
            await store.set_state("a", api.Session.STATE_CLOSED)
        else:
            await client.flushall()
        kept = await store.find("a")
        with pytest.raises(ServiceError) as caught:
            await store.move(before, "right", 1)
        assert caught.value.reason == "SESSION_NOT_FOUND"
        assert await store.find("a") == kept
        assert await store.count_slots("right") == 0

    play(url, scenario)


def test_usage_is_recorded_once_over_a_move(url: str) -> None:
    async def scenario(store: SessionStore, client: Redis) -> None:
        before = await placed(store)
        await store.usage.record(before, Amounts(media_ns=2_000_000_000, blocks=4))
        moved = await store.move(before, "right", 1)
        assert moved is not None
        assert await store.usage.record(before, Amounts(media_ns=3_000_000_000, blocks=6)) is None
        await store.usage.record(moved, Amounts(media_ns=5_000_000_000, blocks=10))
        await store.set_state("a", api.Session.STATE_CLOSED, epoch=2, used=Amounts(media_ns=6_000_000_000, blocks=12))
        found = [one for _, one in await store.usage.read()]
        assert _numbers(found) == [(1, 0, 0), (1, 1, 4), (2, 0, 6), (2, 1, 2)]
        assert sum(one.media_time.ToNanoseconds() for one in found) == 6_000_000_000

    play(url, scenario)


def _numbers(found: Sequence[UsageRecord]) -> list[tuple[int, int, int]]:
    return [(one.epoch, one.number, one.blocks) for one in found]
