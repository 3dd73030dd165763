"""The chart gives gateways the rights they use and no others."""

import pytest

from tests.helm.rendering import NAMESPACE

from .release import Release
from .servers import RefusedError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CORE = f"/api/v1/namespaces/{NAMESPACE}"
SLICES = f"/apis/discovery.k8s.io/v1beta1/namespaces/{NAMESPACE}/endpointslices"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
FORBIDDEN = (
    ("GET", f"{CORE}/pods"),
    ("GET", f"{CORE}/secrets"),
    ("GET", f"{CORE}/configmaps"),
    ("GET", f"{CORE}/endpoints"),
    ("GET", f"{CORE}/services"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/namespaces"),
    ("GET", f"{SLICES}/any"),
    ("POST", SLICES),
    ("DELETE", f"{SLICES}/any"),
    ("GET", SLICES.replace(f"/{NAMESPACE}/", "/default/")),
    ("GET", SLICES.replace(f"/namespaces/{NAMESPACE}", "")),
    ("GET", LEASES),
    ("GET", f"{LEASES}/another"),
    ("PUT", f"{LEASES}/another"),
    ("POST", LEASES.replace(f"/{NAMESPACE}/", "/default/")),
    ("POST", f"{CORE}/pods"),
    ("POST", f"{CORE}/serviceaccounts/default/token"),
    ("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets"),
)


def lease_path(release: Release) -> str:
    """The one Lease that gateways may touch."""
    return f"{LEASES}/{release.lease.partition('/')[2]}"


def test_slices_may_be_listed_and_watched(release: Release) -> None:
    code, answer = release.account.ask("GET", SLICES)
    assert (code, answer["kind"]) == (200, "EndpointSliceList")
    code, _ = release.account.ask("GET", SLICES, watch="true", timeoutSeconds="1", resourceVersion="0")
    assert code == 200


def test_the_own_lease_may_be_made_read_and_renewed(release: Release) -> None:
    account, path = release.account, lease_path(release)
    name = path.rpartition("/")[2]
    try:
        _, lease = account.ask("GET", path)
    except RefusedError as error:
        assert error.code == 404
        made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
        _, lease = account.ask("POST", LEASES, made)
    lease["spec"] = {"holderIdentity": "", "leaseDurationSeconds": 3}
    assert account.ask("PUT", path, lease)[0] == 200


@pytest.mark.parametrize(("method", "path"), FORBIDDEN, ids=lambda one: one.rpartition("/")[2])
def test_nothing_else_may_be_done(release: Release, method: str, path: str) -> None:
    with pytest.raises(RefusedError, match=r"^403 Forbidden"):
        release.account.ask(method, path, {} if method in ("POST", "PUT") else None)


def test_the_own_lease_may_not_be_deleted(release: Release) -> None:
    with pytest.raises(RefusedError, match=r"^403 Forbidden"):
        release.account.ask("DELETE", lease_path(release))


def test_what_is_forbidden_is_there_for_the_administrator(release: Release) -> None:
    for method, path in FORBIDDEN:
        if method == "GET" and path.rpartition("/")[2] not in ("any", "another"):
            assert release.server.ask(method, path)[0] == 200
