"""Who of several gateways does what one alone should do."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kubernetes.client import CoordinationV1Api

from live_avatar.services.gateway.cluster import ObjectName, open_client
from live_avatar.services.gateway.election.leader import NoElection
from live_avatar.services.gateway.election.lease import LeaseHolder
from tests.services.gateway.fake_kubernetes import FakeCluster
from tests.services.gateway.fake_objects import Place

LEASE = ObjectName("default", "reaper")
LEASES = Place("leases", "default")
DURATION_S = 15


class Clock:
    """Time as the test makes it pass."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster().running() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


def holder(cluster: FakeCluster, folder: Path, identity: str, clock: Clock) -> LeaseHolder:
    api = CoordinationV1Api(open_client(cluster.kubeconfig(folder)))
    return LeaseHolder(api, LEASE, identity, duration_s=DURATION_S, clock=clock)


@pytest.fixture
def pair(cluster: FakeCluster, clock: Clock, tmp_path: Path) -> tuple[LeaseHolder, LeaseHolder]:
    return holder(cluster, tmp_path, "one", clock), holder(cluster, tmp_path, "two", clock)


def test_one_of_two_has_it_for_as_long_as_it_renews(pair: tuple[LeaseHolder, LeaseHolder], clock: Clock) -> None:
    one, two = pair
    for _ in range(20):
        one.renew()
        two.renew()
        assert (one.is_leader, two.is_leader) == (True, False)
        clock.now += DURATION_S / 3


def test_one_that_vanishes_is_followed_and_never_joined(
    pair: tuple[LeaseHolder, LeaseHolder], clock: Clock, cluster: FakeCluster
) -> None:
    one, two = pair
    one.renew()
    began = clock.now
    while not two.is_leader:
        assert clock.now - began < 2 * DURATION_S
        clock.now += 1
        two.renew()
        assert not (one.is_leader and two.is_leader)
    assert clock.now - began >= DURATION_S
    one.renew()
    assert (one.is_leader, two.is_leader) == (False, True)
    spec = cluster.objects.get(LEASES, LEASE.name)["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("two", 1)


def test_one_that_ends_gives_it_back_at_once(pair: tuple[LeaseHolder, LeaseHolder]) -> None:
    one, two = pair
    one.renew()
    two.renew()
    one.release()
    two.renew()
    assert (one.is_leader, two.is_leader) == (False, True)


def test_of_two_that_write_at_once_one_wins(
    pair: tuple[LeaseHolder, LeaseHolder], cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    original = LeaseHolder._read

    def read_and_lose(self: LeaseHolder) -> object:
        lease = original(self)
        monkeypatch.setattr(LeaseHolder, "_read", original)
        two.renew()
        return lease

    for _ in range(2):  # the first time both make the Lease, the second time both replace it
        monkeypatch.setattr(LeaseHolder, "_read", read_and_lose)
        one.renew()
        assert (one.is_leader, two.is_leader) == (False, True)
        two.release()
    one.renew()
    assert one.is_leader


@pytest.mark.parametrize("code", [None, 403, 500])
def test_without_an_api_server_everyone_does_it(
    pair: tuple[LeaseHolder, LeaseHolder], clock: Clock, cluster: FakeCluster, code: int | None
) -> None:
    for one in pair:
        one.renew()
    cluster.away, cluster.error = code is None, code
    clock.now += 2 * DURATION_S / 3
    for one in pair:
        one.renew()
    assert [one.is_leader for one in pair] == [True, False], "what was last known holds for a while"
    clock.now += DURATION_S
    for one in pair:
        one.renew()
    assert [one.is_leader for one in pair] == [True, True]
    cluster.away, cluster.error = False, None
    for _ in range(2):
        for one in pair:
            one.renew()
    assert sorted(one.is_leader for one in pair) == [False, True]


@pytest.mark.parametrize("lost", range(4))
def test_a_lost_answer_changes_nothing(
    pair: tuple[LeaseHolder, LeaseHolder], clock: Clock, cluster: FakeCluster, lost: int
) -> None:
    """Whichever answer it is: to the question, or to what was written and done."""
    one, two = pair
    cluster.lose = lost
    one.renew()
    two.renew()
    assert (one.is_leader, two.is_leader) == (True, False)
    cluster.lose = lost
    clock.now += DURATION_S / 3
    one.renew()
    two.renew()
    assert (one.is_leader, two.is_leader) == (True, False)
    spec = cluster.objects.get(LEASES, LEASE.name)["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("one", 0)
    cluster.lose = lost
    one.release()
    assert cluster.objects.get(LEASES, LEASE.name)["spec"]["holderIdentity"] == ""


def test_it_renews_by_itself_and_gives_back_when_cancelled(cluster: FakeCluster, tmp_path: Path) -> None:
    api = CoordinationV1Api(open_client(cluster.kubeconfig(tmp_path)))
    one = LeaseHolder(api, LEASE, "one", duration_s=1)

    async def run() -> None:
        running = asyncio.create_task(one.run())
        seen = set[str]()
        async with asyncio.timeout(10):
            while len(seen) < 3:
                if one.is_leader:
                    seen.add(cluster.objects.get(LEASES, LEASE.name)["spec"]["renewTime"])
                await asyncio.sleep(0.02)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(run())
    assert not one.is_leader
    assert cluster.objects.get(LEASES, LEASE.name)["spec"]["holderIdentity"] == ""
    assert cluster.asked == {("get", "leases"), ("create", "leases"), ("update", "leases")}


def test_without_a_lease_every_gateway_does_it() -> None:
    assert NoElection().is_leader
