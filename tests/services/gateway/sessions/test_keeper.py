"""What a gateway holds, kept in a store that answers late, not at all, or wrongly."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

import grpc
import pytest

from live_avatar.services.gateway.election.leader import NoElection
from live_avatar.services.gateway.sessions.keeper import End, Keeper
from live_avatar.services.gateway.store.records import LeaseLostError, SessionRecord
from live_avatar.services.gateway.store.renewals import Renewal
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.services.gateway.store.usage import Amounts
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.store.test_store import record

LEASE_S = 0.3
AWAY = ServiceError(grpc.StatusCode.UNAVAILABLE, "STORE_LOST")


class FakeStore:
    """Counts what is asked of it; the part of the leases that ``silent`` belongs to has no answer."""

    def __init__(self) -> None:
        self.renewed = Counter[str]()
        self.silent = ""
        self.outcome: Renewal = None
        self.spared: set[str] = set()
        self.without_lease: list[str] = []
        self.reaped: list[str] = []
        self.ends: list[tuple[str, int, str]] = []
        self.away = False

    async def renew_all(self, records: Sequence[SessionRecord], used: Mapping[str, Amounts]) -> Mapping[str, Renewal]:
        names = [one.session_id for one in records]
        if self.silent in names:
            await asyncio.Event().wait()
        self.renewed.update(names)
        return dict.fromkeys(names, self.outcome)

    async def late(self, held: Collection[str]) -> Sequence[str]:
        self.spared |= set(held)
        return self.without_lease

    async def reap(self, names: Collection[str]) -> Sequence[SessionRecord]:
        self.reaped += names
        return []

    async def settle(self) -> None: ...

    async def set_state(self, session_id: str, state: int, reason: str, *, epoch: int, used: Amounts) -> None:
        if self.away:
            raise AWAY
        self.ends.append((session_id, state, reason))


def kept(store: FakeStore) -> Keeper:
    return Keeper(cast("SessionStore", store), LEASE_S, NoElection(), 3 * LEASE_S)


async def run(keeper: Keeper, seconds: float) -> None:
    task = asyncio.create_task(keeper.run())
    await asyncio.sleep(seconds)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


def test_an_answer_that_never_comes_delays_nobody_else() -> None:
    async def scenario() -> None:
        store = FakeStore()
        keeper = kept(store)
        for index in range(1_000):
            keeper.hold(replace(record(f"s{index}"), epoch=1))
        store.silent = "s0"
        await run(keeper, 6 * LEASE_S)
        assert store.renewed["s0"] == 0
        assert store.renewed["s999"] >= 6, "twice in a lease"

    asyncio.run(scenario())


def test_what_is_held_or_made_is_never_reaped_and_renewed_once_it_is_stored() -> None:
    async def scenario() -> None:
        store = FakeStore()
        keeper = kept(store)
        keeper.hold(record("made"))
        keeper.hold(replace(record("stored"), epoch=1))
        await run(keeper, LEASE_S)
        assert store.spared == {"made", "stored"}
        assert set(store.renewed) == {"stored"}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (LeaseLostError("a", record()), "LEASE_LOST"),
        (LeaseLostError("a", None), "STORE_LOST"),
        (LeaseLostError("a", replace(record(), state=api.Session.STATE_CLOSED)), "SESSION_CLOSED"),
        (AWAY, "STORE_LOST"),
    ],
)
def test_a_session_that_is_lost_receives_why(outcome: Renewal, reason: str) -> None:
    async def scenario() -> None:
        store, found = FakeStore(), list[ServiceError]()
        keeper = kept(store)
        keeper.hold(replace(record(), epoch=1), found.append)
        store.outcome = outcome
        await run(keeper, 5 * LEASE_S)
        assert {(error.code, error.reason) for error in found} == {(grpc.StatusCode.ABORTED, reason)}

    asyncio.run(scenario())


def test_an_end_is_written_once_the_store_is_back() -> None:
    async def scenario() -> None:
        store = FakeStore()
        keeper, end = kept(store), End("a", 1, api.Session.STATE_FAILED, "IDLE")
        store.away = True
        await keeper.end(end)
        assert store.ends == []
        store.away = False
        await run(keeper, LEASE_S)
        assert store.ends == [("a", api.Session.STATE_FAILED, "IDLE")]

    asyncio.run(scenario())


def test_a_gateway_gets_time_to_take_its_leases_back_after_an_outage() -> None:
    """What is without a lease at one look and has one at the next is not reaped."""

    async def scenario() -> None:
        store = FakeStore()
        keeper = kept(store)
        store.without_lease = ["theirs", "gone"]
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(LEASE_S / 10)
        assert store.reaped == []
        store.without_lease = ["gone"]
        await asyncio.sleep(3 * LEASE_S)
        assert set(store.reaped) == {"gone"}
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())
