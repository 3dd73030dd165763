"""The fake API server answers as the real one does: the same questions to both."""

import json
from collections.abc import Iterator

import pytest
import urllib3

from tests.services.gateway.fake_kubernetes import TOKEN, FakeCluster
from tests.services.gateway.fake_objects import Object, Place

from .objects import RealObjects
from .servers import ApiServer, RefusedError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LEASES, SLICES = Place("leases", "default"), Place("endpointslices", "default")
LEASE_PATH = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
SLICE_PATH = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
NOW = "2026-01-01T00:00:00.000001Z"


@pytest.fixture(params=["fake", "real"])
def asked(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    if request.param == "fake":
        with FakeCluster().running() as fake:
            yield ApiServer(fake.url, TOKEN)
    else:
        yield request.getfixturevalue("newer_server")


def lease(name: str, **spec: object) -> Object:
    full = {"holderIdentity": "one", "leaseDurationSeconds": 15, "acquireTime": NOW, "renewTime": NOW} | spec
    return {"metadata": {"name": name}, "spec": full}


def endpoint_slice(name: str, host: str, service: str = "contract") -> Object:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
        "ports": [{"name": "grpc", "port": 1, "protocol": "TCP"}],
    }


def events(server: ApiServer, version: str, seconds: int) -> list[Object]:
    """What a watch of the slices of one service tells from ``version`` on."""
    query = f"watch=true&labelSelector=kubernetes.io/service-name%3Dcontract&timeoutSeconds={seconds}"
    url = f"{server.url}{SLICE_PATH}?{query}&allowWatchBookmarks=true&resourceVersion={version}"
    headers = {"Authorization": f"Bearer {server.token}"}
    with urllib3.PoolManager() as pool:
        response = pool.request("GET", url, headers=headers, retries=False, timeout=seconds + 10)
    assert response.status == 200
    return [json.loads(line) for line in response.data.splitlines()]


def test_a_lease_is_written_by_whoever_has_read_it(asked: ApiServer) -> None:
    objects = RealObjects(asked)
    with pytest.raises(RefusedError, match=r"^404 NotFound"):
        objects.get(LEASES, "contract")
    made = objects.create(LEASES, lease("contract"))
    assert {"uid", "creationTimestamp", "resourceVersion"} <= set(made["metadata"])
    with pytest.raises(RefusedError, match=r"^409 AlreadyExists"):
        objects.create(LEASES, lease("contract"))
    first = made["metadata"]["resourceVersion"]
    assert objects.replace(LEASES, "contract", made)["metadata"]["resourceVersion"] == first
    made["spec"]["holderIdentity"] = "two"
    second = objects.replace(LEASES, "contract", made)["metadata"]["resourceVersion"]
    assert int(second) > int(first)
    made["spec"]["holderIdentity"] = "three"
    with pytest.raises(RefusedError, match=r"^409 Conflict"):
        objects.replace(LEASES, "contract", made)
    with pytest.raises(RefusedError, match=r"^422 Invalid"):
        objects.replace(LEASES, "contract", lease("contract", holderIdentity="four"))
    assert objects.get(LEASES, "contract")["spec"]["holderIdentity"] == "two"
    objects.delete(LEASES, "contract")
    with pytest.raises(RefusedError, match=r"^404 NotFound"):
        objects.delete(LEASES, "contract")


@pytest.mark.parametrize(
    ("spec", "refused"),
    [({"leaseDurationSeconds": 0}, "^422 Invalid"), ({"renewTime": "2026-01-01T00:00:00Z"}, "^400 BadRequest")],
    ids=["no time", "whole seconds"],
)
def test_a_lease_that_makes_no_sense_is_refused(asked: ApiServer, spec: Object, refused: str) -> None:
    with pytest.raises(RefusedError, match=refused):
        RealObjects(asked).create(LEASES, lease("senseless", **spec))


def test_a_client_without_a_token_gets_no_answer(asked: ApiServer) -> None:
    with pytest.raises(RefusedError, match=r"^401 Unauthorized"):
        ApiServer(asked.url, "wrong").ask("GET", LEASE_PATH)


def test_a_watch_reports_what_matters_to_its_selector(asked: ApiServer) -> None:
    objects = RealObjects(asked)
    version = asked.ask("GET", SLICE_PATH)[1]["metadata"]["resourceVersion"]
    objects.create(SLICES, endpoint_slice("contract-a", "10.0.0.1"))
    moved = endpoint_slice("contract-a", "10.0.0.2")
    objects.replace(SLICES, "contract-a", moved)
    objects.replace(SLICES, "contract-a", moved)
    objects.create(SLICES, endpoint_slice("contract-b", "10.0.0.3", service="other"))
    objects.replace(SLICES, "contract-a", endpoint_slice("contract-a", "10.0.0.4", service="other"))
    try:
        reported = events(asked, version, seconds=3)
    finally:
        for name in ("contract-a", "contract-b"):
            objects.delete(SLICES, name)
    seen = [
        (event["type"], event["object"]["metadata"].get("name")) for event in reported if event["type"] != "BOOKMARK"
    ]
    assert seen == [(kind, "contract-a") for kind in ("ADDED", "MODIFIED", "DELETED")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in reported]
    assert versions == sorted(versions)
    assert versions[0] > int(version)
    last = [event["object"]["endpoints"][0]["addresses"] for event in reported[:3]]
    assert last == [["10.0.0.1"], ["10.0.0.2"], ["10.0.0.2"]], "a slice that no longer matches is told as it was"


def test_a_list_is_of_one_kind_and_one_version(asked: ApiServer) -> None:
    objects = RealObjects(asked)
    objects.create(SLICES, endpoint_slice("contract-c", "10.0.0.1"))
    try:
        _, listed = asked.ask("GET", SLICE_PATH, labelSelector="kubernetes.io/service-name%3Dcontract")
    finally:
        objects.delete(SLICES, "contract-c")
    assert (listed["kind"], listed["apiVersion"]) == ("EndpointSliceList", "discovery.k8s.io/v1")
    (one,) = listed["items"]
    assert one["metadata"]["name"] == "contract-c"
    assert "kind" not in one
    assert int(listed["metadata"]["resourceVersion"]) >= int(one["metadata"]["resourceVersion"])
