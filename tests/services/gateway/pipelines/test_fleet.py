"""A gateway whose pipelines come and go, as the API server of a cluster tells it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from live_avatar.v1 import avatar_service_pb2 as api
from tests.helm.rendering import NAMESPACE as CHART_NAMESPACE
from tests.helm.rendering import named, render
from tests.services.gateway.clients import Gateway, Talk, gateway, tone, units
from tests.services.gateway.endpoint_world import NAMESPACE, PORTS, SERVICE, SLICES
from tests.services.gateway.fake_kubernetes import FakeCluster
from tests.services.gateway.fake_objects import Object
from tests.services.gateway.fake_pipeline import FakePipeline, fake_pipeline

# The gateway imports it when it first needs it: within a test that would hold up the services in the same loop.
pytest.importorskip("kubernetes.client")
WAIT_S = 15.0
BLOCK_SAMPLES = 7_680


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster().running() as running:
        yield running


def slice_for(name: str, pipeline: FakePipeline) -> Object:
    """A slice that tells of one ready pipeline."""
    ports = [int(target.rpartition(":")[2]) for target in (pipeline.head, pipeline.tail)]
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": SERVICE}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}, "targetRef": {"uid": name}}],
        "ports": [{"name": name, "port": port} for name, port in zip((PORTS.head, PORTS.decoder), ports, strict=True)],
    }


def settings(cluster: FakeCluster, folder: Path) -> dict[str, Any]:
    discovery = {
        "service": f"{NAMESPACE}/{SERVICE}",
        "lease": f"{NAMESPACE}/reaper",
        "lease_seconds": 1,
        "kubeconfig": cluster.kubeconfig(folder),
    }
    return {"pipelines": (), "discovery": discovery}


@asynccontextmanager
async def two_pipelines(cluster: FakeCluster, folder: Path) -> AsyncIterator[tuple[Gateway, list[FakePipeline]]]:
    """A gateway that has found two pipelines of two places each."""
    async with AsyncExitStack() as stack:
        pipelines = [await stack.enter_async_context(fake_pipeline(2)) for _ in range(2)]
        for name, pipeline in zip(("a", "b"), pipelines, strict=True):
            cluster.objects.create(SLICES, slice_for(name, pipeline))
        running = await stack.enter_async_context(gateway(pipelines[0], settings=settings(cluster, folder), wait=False))
        await known(running, 2)
        yield running, pipelines


async def known(running: Gateway, count: int) -> api.GetServerInfoResponse:
    """Returns once so many pipelines are known and all are ready."""
    async with asyncio.timeout(WAIT_S):
        while True:
            info = await running.info()
            if len(info.pipelines) == count and info.session_capacity == 2 * count:
                return info
            await asyncio.sleep(0.02)


async def movie(talk: Talk) -> int:
    """Speaks one block to the end; returns the number of pieces of video."""
    await talk.speak(tone(BLOCK_SAMPLES))
    await talk.finish()
    return len(units(await talk.rest()))


def test_sessions_go_on_where_a_pipeline_is_no_longer_found(cluster: FakeCluster, tmp_path: Path) -> None:
    async def run() -> None:
        async with two_pipelines(cluster, tmp_path) as (running, pipelines):
            made = await running.create()
            used, other = sorted(pipelines, key=lambda one: -one.sessions_held)
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                cluster.objects.delete(SLICES, "a" if used is pipelines[0] else "b")
                await known(running, 1)
                for _ in range(2):
                    await running.create()
                assert (used.sessions_held, other.sessions_held) == (3, 6), "new sessions go elsewhere"
                assert await movie(talk)
            async with asyncio.timeout(WAIT_S):
                while used.hops[0]._upstreams:  # noqa: ASYNC110 - nothing tells of the end of a link
                    await asyncio.sleep(0.02)

    asyncio.run(run())


def test_a_pipeline_that_comes_back_is_used_again(cluster: FakeCluster, tmp_path: Path) -> None:
    async def run() -> None:
        async with two_pipelines(cluster, tmp_path) as (running, pipelines):
            cluster.objects.delete(SLICES, "a")
            await known(running, 1)
            cluster.objects.create(SLICES, slice_for("a", pipelines[0]))
            await known(running, 2)
            for _ in range(4):
                await running.create()
            assert [one.sessions_held for one in pipelines] == [6, 6]

    asyncio.run(run())


def test_sessions_are_made_while_the_cluster_is_away(cluster: FakeCluster, tmp_path: Path) -> None:
    async def run() -> None:
        async with two_pipelines(cluster, tmp_path) as (running, _):
            cluster.away = True
            cluster.cut()
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                assert await movie(talk)
            await asyncio.sleep(0.5)
            await known(running, 2)

    asyncio.run(run())


def test_the_charts_role_is_what_a_gateway_asks_for(cluster: FakeCluster, tmp_path: Path) -> None:
    async def run() -> None:
        async with two_pipelines(cluster, tmp_path):
            async with asyncio.timeout(WAIT_S):
                while ("update", "leases") not in cluster.asked:  # noqa: ASYNC110 - another thread is asked
                    await asyncio.sleep(0.02)

    asyncio.run(run())
    documents = render({"gateway": {"discovery": "kubernetes"}})
    rules = named(documents, "Role", "-gateway")["rules"]
    allowed = {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == cluster.asked
    (container,) = named(documents, "Deployment", "-gateway")["spec"]["template"]["spec"]["containers"]
    reported = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    service = named(documents, "Service", "-pipeline")
    assert reported["discovery.service"] == f"{CHART_NAMESPACE}/{service['metadata']['name']}"
    ports = {port["name"] for port in service["spec"]["ports"]}
    asked = {reported[f"discovery.{end}-port-name"] for end in ("head", "decoder")}
    assert asked <= ports
    (lease,) = {name for rule in rules for name in rule.get("resourceNames", ())}
    assert reported["discovery.lease"] == f"{CHART_NAMESPACE}/{lease}"
