"""One cluster for all tests of this folder, with the namespaces they use."""

from collections.abc import Iterator

import pytest

from tests.helm.rendering import NAMESPACE
from tests.services.gateway import endpoint_world

from .newer_discovery import newer
from .release import Release, install
from .servers import ApiServer, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server, asked by its administrator."""
    with running(tmp_path_factory.mktemp("cluster")) as server:
        for namespace in {NAMESPACE, endpoint_world.NAMESPACE} - {"default"}:
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            server.ask("POST", "/api/v1/namespaces", body)
        # As the NVIDIA operator makes it; a pod that names one must find it.
        nvidia = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}}
        server.ask("POST", "/apis/node.k8s.io/v1/runtimeclasses", {**nvidia, "handler": "nvidia"})
        yield server


@pytest.fixture(scope="session")
def newer_server(server: ApiServer) -> Iterator[ApiServer]:
    """The same for clients of ``discovery.k8s.io/v1``."""
    with newer(server) as front:
        yield front


@pytest.fixture(scope="session")
def release(server: ApiServer) -> Release:
    """The chart's accounts, roles, Services and pipelines, installed."""
    return install(server)
