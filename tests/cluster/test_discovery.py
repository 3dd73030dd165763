"""Gateways find the pipelines of the chart by slices that real controllers write, with the rights the chart gives."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.client import CoordinationV1Api, DiscoveryV1Api

from live_avatar.services.gateway.cluster import ObjectName, open_client
from live_avatar.services.gateway.discovery.kubernetes import KubernetesDiscovery
from live_avatar.services.gateway.discovery.slices import PortNames
from live_avatar.services.gateway.discovery.source import Address
from live_avatar.services.gateway.election.lease import LeaseHolder
from tests.helm.rendering import NAMESPACE
from tests.services.gateway.discovery.test_discovery import Notified, following
from tests.services.gateway.endpoint_world import NAMESPACE as OF_WORLD
from tests.services.gateway.endpoint_world import PORTS, SERVICE, World

from .node import Node
from .objects import RealObjects
from .release import PIPELINES, Release
from .servers import ApiServer, Body

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

HEAD, DECODER = 7_000, 7_099
MOVES, EVENTS = 60, 300


class Pipelines:
    """The pods of the chart's pipelines, moved at random."""

    def __init__(self, node: Node, seed: int) -> None:
        self._node = node
        self._random = random.Random(seed)
        self._ready = set[str]()
        self._ending = set[str]()
        self.moved = dict.fromkeys(("ready", "unready", "asked to stop", "stopped"), 0)
        self._pods: list[Body] = []
        self.wait_settled()

    def wait_settled(self) -> None:
        """Waits until there are as many as there should be."""
        self._pods = self._node.wait_settled()

    def expected(self) -> frozenset[Address]:
        """Every pipeline that takes new sessions."""
        hosts = [self._node.addresses[pod["metadata"]["uid"]] for pod in self._pods if self._takes(pod)]
        return frozenset(Address(f"{host}:{HEAD}", f"{host}:{DECODER}") for host in hosts)

    def step(self) -> None:
        """One random move of one pod."""
        pod = self._random.choice(self._pods)
        identity = pod["metadata"]["uid"]
        if identity in self._ending:
            self._node.stopped(pod)
            self.moved["stopped"] += 1
            self.wait_settled()
        elif self._random.random() < 0.25:
            self._node.delete(pod)
            self._ending.add(identity)
            self.moved["asked to stop"] += 1
        else:
            ready = identity not in self._ready
            self._node.notify(pod, ready=ready)
            self._ready ^= {identity}
            self.moved["ready" if ready else "unready"] += 1

    def _takes(self, pod: Body) -> bool:
        identity = pod["metadata"]["uid"]
        return identity in self._ready and identity not in self._ending


@pytest.fixture(scope="module")
def pipelines(release: Release) -> Iterator[Pipelines]:
    yield Pipelines(Node(release.server, NAMESPACE, release.pod_labels, PIPELINES), seed=3)


def discovery(release: Release, front: ApiServer, folder: Path) -> KubernetesDiscovery:
    """As the chart configures a gateway, with its account's token."""
    flags = release.flags
    asked = ApiServer(front.url, release.account.token)
    ports = PortNames(flags["discovery.head-port-name"], flags["discovery.decoder-port-name"])
    api = DiscoveryV1Api(open_client(asked.kubeconfig(folder)))
    return KubernetesDiscovery(api, ObjectName.parse(flags["discovery.service"]), ports)


def test_pipelines_of_the_chart_are_found_as_they_come_and_go(
    release: Release, newer_server: ApiServer, pipelines: Pipelines, tmp_path: Path
) -> None:
    async def run() -> None:
        async with following(discovery(release, newer_server, tmp_path)) as reported:
            await reported.becomes(pipelines.expected())
            for _ in range(MOVES):
                await asyncio.to_thread(pipelines.step)
                await reported.becomes(pipelines.expected())

    asyncio.run(run())
    assert min(pipelines.moved.values()) >= 5, pipelines.moved


def test_no_slice_of_many_is_missed(server: ApiServer, newer_server: ApiServer, tmp_path: Path) -> None:
    """The random world that the fake server is moved by, written to the real one."""
    world = World(RealObjects(newer_server), seed=6)  # type: ignore[arg-type]
    api = DiscoveryV1Api(open_client(newer_server.kubeconfig(tmp_path)))

    async def moves(reported: Notified) -> None:
        for event in range(1, EVENTS + 1):
            await asyncio.to_thread(world.step)
            if event % 50 == 0:
                await reported.becomes(world.expected())

    async def run() -> None:
        async with following(KubernetesDiscovery(api, ObjectName(OF_WORLD, SERVICE), PORTS)) as reported:
            await moves(reported)

    asyncio.run(run())
    assert world.born > 10


def test_a_gateway_of_the_chart_gets_and_gives_back_the_lease(release: Release, tmp_path: Path) -> None:
    api = CoordinationV1Api(open_client(release.account.kubeconfig(tmp_path)))
    one, two = (LeaseHolder(api, ObjectName.parse(release.lease), name) for name in ("one", "two"))
    one.renew()
    two.renew()
    assert (one.is_leader, two.is_leader) == (True, False)
    one.release()
    two.renew()
    assert (one.is_leader, two.is_leader) == (False, True)
    two.release()
