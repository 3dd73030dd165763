"""The rules of the Lease hold against a real API server as against the fake one."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from kubernetes.client import CoordinationV1Api

from live_avatar.services.gateway.cluster import open_client
from live_avatar.services.gateway.election.lease import LeaseHolder

# The same tests as against the fake one: they get their server by the fixtures of this file.
from tests.services.gateway.election.test_lease import (  # noqa: F401
    DURATION_S,
    LEASE,
    Clock,
    clock,
    test_of_two_that_write_at_once_one_wins,
    test_one_of_two_has_it_for_as_long_as_it_renews,
    test_one_that_ends_gives_it_back_at_once,
    test_one_that_vanishes_is_followed_and_never_joined,
)

from .objects import RealObjects
from .servers import ApiServer, RefusedError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_PATH = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE.namespace}/leases/{LEASE.name}"


@dataclass(frozen=True)
class Cluster:
    """As much of the fake one as these tests use."""

    objects: RealObjects


@pytest.fixture
def cluster(server: ApiServer) -> Cluster:
    with suppress(RefusedError):  # there is none yet
        server.ask("DELETE", _PATH)
    return Cluster(RealObjects(server))


@pytest.fixture
def pair(server: ApiServer, cluster: Cluster, clock: Clock, tmp_path: Path) -> tuple[LeaseHolder, LeaseHolder]:  # noqa: F811
    api = CoordinationV1Api(open_client(server.kubeconfig(tmp_path)))
    one, two = (LeaseHolder(api, LEASE, name, duration_s=DURATION_S, clock=clock) for name in ("one", "two"))
    return one, two
