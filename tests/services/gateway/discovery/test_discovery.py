"""How pipelines are found: in the slices of a Service, by an API server that fails in every way, by DNS, by name."""

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import DiscoveryV1Api

from live_avatar.services.gateway.cluster import ObjectName, open_client
from live_avatar.services.gateway.discovery.dns import DnsDiscovery, DnsName
from live_avatar.services.gateway.discovery.kubernetes import KubernetesDiscovery
from live_avatar.services.gateway.discovery.slice_watch import WatchTiming
from live_avatar.services.gateway.discovery.slices import pipelines_of
from live_avatar.services.gateway.discovery.source import Address, Discovery, parse_address
from live_avatar.services.gateway.discovery.static import StaticDiscovery
from tests.services.gateway.endpoint_world import (
    CONDITIONS,
    DECODER,
    HEAD,
    NAMESPACE,
    PORTS,
    SERVICE,
    SLICES,
    Pod,
    World,
    slice_of,
)
from tests.services.gateway.fake_kubernetes import FakeCluster
from tests.services.gateway.fake_objects import Object

QUICK = WatchTiming(answer_s=0.3, watch_s=1.0, backoff_min_s=0.005, backoff_max_s=0.05)
SETTLE_S = 15.0
EVENTS = 1_000


class Notified:
    """What discovery says, as it says it."""

    def __init__(self) -> None:
        self.latest: frozenset[Address] | None = None
        self.times = 0
        self._changed = asyncio.Event()

    def take(self, found: Set[Address]) -> None:
        self.latest = frozenset(found)
        self.times += 1
        self._changed.set()

    async def becomes(self, expected: frozenset[Address]) -> None:
        """Returns once ``expected`` is what was said last."""
        try:
            async with asyncio.timeout(SETTLE_S):
                while self.latest != expected:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            latest = self.latest or frozenset()
            pytest.fail(f"lost: {sorted(expected - latest)}; ghosts: {sorted(latest - expected)}")


@asynccontextmanager
async def following(discovery: Discovery) -> AsyncIterator[Notified]:
    """What ``discovery`` tells while the context lasts."""
    reported = Notified()
    running = asyncio.create_task(discovery.run(reported.take))
    try:
        yield reported
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled(), running.exception()


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster().running() as running:
        yield running


@pytest.fixture
def world(cluster: FakeCluster) -> World:
    return World(cluster.objects, seed=6)


def by_cluster(cluster: FakeCluster, folder: Path) -> KubernetesDiscovery:
    api = DiscoveryV1Api(open_client(cluster.kubeconfig(folder)))
    return KubernetesDiscovery(api, ObjectName(NAMESPACE, SERVICE), PORTS, QUICK)


# Slices


@pytest.mark.parametrize(("condition", "takes"), list(enumerate(takes for _, takes in CONDITIONS)))
def test_an_endpoint_counts_unless_it_is_not_ready(condition: int, takes: bool) -> None:
    pod = Pod(1, "a", condition)
    assert pipelines_of([slice_of("a", [pod])], PORTS) == ({pod.address} if takes else set())


def test_a_pod_that_several_slices_report_of_is_one_pipeline() -> None:
    pod = Pod(1, "a")
    six = slice_of("six", [pod]) | {"addressType": "IPv6"}
    six["endpoints"][0]["addresses"] = ["fd00::1"]
    four = slice_of("four", [pod])
    for order in ([six, four], [four, six], [six, four, four]):
        assert pipelines_of(order, PORTS) == {pod.address}
    assert pipelines_of([six], PORTS) == {Address(f"[fd00::1]:{HEAD}", f"[fd00::1]:{DECODER}")}


@pytest.mark.parametrize(
    "broken",
    [{"ports": None}, {"ports": [{"name": PORTS.head, "port": 1}]}, {"endpoints": None}, {"endpoints": [{}]},
     {"endpoints": [{"addresses": []}]}],
)  # fmt: skip
def test_a_slice_that_reports_too_little_lists_no_pipeline(broken: Object) -> None:
    good = Pod(1, "a")
    assert pipelines_of([slice_of("b", [Pod(2, "b")]) | broken, slice_of("a", [good])], PORTS) == {good.address}


# The API server


def test_no_pipeline_is_lost_and_none_is_a_ghost(cluster: FakeCluster, world: World, tmp_path: Path) -> None:
    """A thousand random events: pods that come, go, move and change, and a server that fails meanwhile."""
    chance = random.Random(7)
    faults: dict[str, Callable[[], None]] = {
        "cut": cluster.cut, "compact": cluster.objects.compact, "freeze": cluster.freeze,
        "away": lambda: setattr(cluster, "away", not cluster.away),
        "error": lambda: setattr(cluster, "error", None if cluster.error else chance.choice((403, 410, 429, 500, 504))),
    }  # fmt: skip
    happened = dict.fromkeys(faults, 0)

    async def run() -> int:
        async with following(by_cluster(cluster, tmp_path)) as reported:
            for event in range(1, EVENTS + 1):
                if chance.random() < 0.1:
                    fault = chance.choice(list(faults))
                    happened[fault] += 1
                    faults[fault]()
                else:
                    world.step()
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() * 0.02)
                if event % 100 == 0:
                    cluster.away, cluster.error = False, None
                    await reported.becomes(world.expected())
            return reported.times

    times = asyncio.run(run())
    assert min(happened.values()) >= 5, happened
    assert times > EVENTS / 20, "the events came too fast to be seen one by one"
    assert cluster.asked == {("list", "endpointslices"), ("watch", "endpointslices")}
    assert world.born > 50


def test_an_old_version_leads_to_a_new_list(cluster: FakeCluster, world: World, tmp_path: Path) -> None:
    async def run() -> None:
        async with following(by_cluster(cluster, tmp_path)) as reported:
            world.bear()
            await reported.becomes(world.expected())
            lists = cluster.lists
            cluster.away = True
            cluster.cut()
            for _ in range(5):
                world.bear()
                world.change()
            cluster.objects.compact()
            cluster.away = False
            await reported.becomes(world.expected())
            assert cluster.lists > lists

    asyncio.run(run())


def test_a_cut_within_a_line_costs_no_list(cluster: FakeCluster, world: World, tmp_path: Path) -> None:
    async def run() -> None:
        async with following(by_cluster(cluster, tmp_path)) as reported:
            for _ in range(10):
                world.bear()
                await reported.becomes(world.expected())
                cluster.cut()
            assert cluster.lists == 1

    asyncio.run(run())


def test_a_watch_that_falls_silent_is_given_up(cluster: FakeCluster, world: World, tmp_path: Path) -> None:
    async def run() -> None:
        async with following(by_cluster(cluster, tmp_path)) as reported:
            world.bear()
            await reported.becomes(world.expected())
            cluster.freeze()
            world.bear()
            await reported.becomes(world.expected())

    asyncio.run(run())


def test_what_was_found_stays_while_the_server_is_away(cluster: FakeCluster, world: World, tmp_path: Path) -> None:
    async def run() -> None:
        async with following(by_cluster(cluster, tmp_path)) as reported:
            while not world.expected():
                world.bear()
            before = world.expected()
            await reported.becomes(before)
            times = reported.times
            for code in (None, 403, 500):
                cluster.away, cluster.error = code is None, code
                cluster.cut()
                await asyncio.sleep(0.3)
            assert (reported.latest, reported.times) == (before, times)

    asyncio.run(run())


def test_its_thread_ends_with_it(cluster: FakeCluster, world: World, tmp_path: Path) -> None:
    async def run() -> None:
        async with following(by_cluster(cluster, tmp_path)) as reported:
            world.bear()
            await reported.becomes(world.expected())
            assert "discovery" in {thread.name for thread in threading.enumerate()}

    asyncio.run(run())
    assert "discovery" not in {thread.name for thread in threading.enumerate()}


def test_no_cluster_is_an_error_that_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        open_client(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="service account"):
        open_client(None)


# Names


def test_a_host_name_gives_a_pipeline_per_address() -> None:
    async def run() -> None:
        async with following(DnsDiscovery(DnsName.parse("127.0.0.1:7001/7002"), 0.05)) as reported:
            await reported.becomes(frozenset({Address("127.0.0.1:7001", "127.0.0.1:7002")}))

    asyncio.run(run())


def test_a_name_server_that_is_away_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [["10.0.0.1", "10.0.0.2", "fd00::1"]]

    def resolve(host: str, port: int, *rest: object, **more: object) -> list[Any]:
        if isinstance(answers[-1], int):
            raise socket.gaierror(answers[-1], "as told by the test")
        return [(0, 0, 0, "", (address, port)) for address in answers[-1]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    async def run() -> None:
        async with following(DnsDiscovery(DnsName.parse("pipelines.svc:1/2"), 0.02)) as reported:
            all_of_them = frozenset(
                map(parse_address, ("10.0.0.1:1/10.0.0.1:2", "10.0.0.2:1/10.0.0.2:2", "[fd00::1]:1/[fd00::1]:2"))
            )
            await reported.becomes(all_of_them)
            answers.append(socket.EAI_AGAIN)
            await asyncio.sleep(0.1)
            assert reported.latest == all_of_them
            answers.append(socket.EAI_NONAME)
            await reported.becomes(frozenset())
            answers.append(["10.0.0.2"])
            await reported.becomes(frozenset({parse_address("10.0.0.2:1/10.0.0.2:2")}))

    asyncio.run(run())


def test_all_ways_of_finding_agree(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = [Pod(number, "a") for number in range(1, 6)]
    cluster.objects.create(SLICES, slice_of("a", pods))
    answers = [(0, 0, 0, "", (pod.host, HEAD)) for pod in pods]
    expected = frozenset(pod.address for pod in pods)

    async def run() -> None:
        static = StaticDiscovery(parse_address(str(pod.address)) for pod in pods)
        kubernetes = by_cluster(cluster, tmp_path)
        async with following(static) as named, following(kubernetes) as watched:
            await named.becomes(expected)
            await watched.becomes(expected)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
        async with following(DnsDiscovery(DnsName("pipelines.svc", HEAD, DECODER), 0.02)) as resolved:
            await resolved.becomes(expected)

    asyncio.run(run())
