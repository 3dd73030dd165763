"""Every rendered document is taken by a real API server, which sees mistakes that no schema does."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.helm.matrix import combinations, samples
from tests.helm.rendering import CHART, NAMESPACE, Document, Values, ci_values, named, render

from .kinds import create
from .older import FOREIGN, older, pods_of
from .servers import ApiServer, RefusedError

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1_500)]

CI = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())
ALL: dict[str, Values] = {
    **samples(),
    **{"-".join(names): values for names, values in combinations()},
    **{f"ci-{name}": ci_values(name) for name in CI},
}
Pod = dict[str, Any]


@pytest.mark.parametrize("name", ALL)
def test_every_document_is_taken(server: ApiServer, name: str) -> None:
    documents = render(ALL[name])
    known = [one for one in map(older, documents) if one is not None]
    assert len(known) >= 5
    pods = [pod for one in documents for pod in pods_of(one)]
    assert len(pods) >= 2
    for document in (*known, *pods):
        create(server, document, dry=True)


def test_the_kinds_that_are_left_out_are_met_and_not_known(server: ApiServer) -> None:
    left_out = {one["kind"]: one for values in ALL.values() for one in render(values) if older(one) is None}
    assert set(left_out) == FOREIGN
    for document in left_out.values():
        with pytest.raises(RefusedError, match="404"):
            create(server, document, dry=True)


def test_dry_runs_leave_nothing(server: ApiServer) -> None:
    for document in filter(None, map(older, render(ALL["ci-cpu"]))):
        create(server, document, dry=True)
    _, answer = server.ask("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
    assert answer["items"] == []


def port_99999(pod: Pod) -> None:
    pod["containers"][0]["ports"][0]["containerPort"] = 99_999


def unknown_volume(pod: Pod) -> None:
    pod["containers"][0]["volumeMounts"][0]["name"] = "nowhere"


def two_of_one_name(pod: Pod) -> None:
    pod["containers"][1]["name"] = pod["containers"][0]["name"]


def two_handlers(pod: Pod) -> None:
    pod["containers"][0]["livenessProbe"]["exec"] = {"command": ["true"]}


def request_above_limit(pod: Pod) -> None:
    pod["containers"][0]["resources"]["requests"]["memory"] = "900Gi"


def half_a_gpu(pod: Pod) -> None:
    for kind in ("requests", "limits"):
        pod["containers"][1]["resources"][kind]["nvidia.com/gpu"] = "500m"


def fewer_gpus_asked_than_allowed(pod: Pod) -> None:
    pod["containers"][1]["resources"]["limits"]["nvidia.com/gpu"] = 2


def no_quantity(pod: Pod) -> None:
    pod["containers"][0]["resources"]["limits"]["memory"] = "1Gigs"


def root_where_none_may_be(pod: Pod) -> None:
    pod["securityContext"]["runAsUser"] = -1


def a_path_that_is_mounted_twice(pod: Pod) -> None:
    mounts = pod["containers"][0]["volumeMounts"]
    mounts.append(mounts[0])


MISTAKES: tuple[Callable[[Pod], None], ...] = (
    port_99999, unknown_volume, two_of_one_name, two_handlers, request_above_limit, half_a_gpu,
    fewer_gpus_asked_than_allowed, no_quantity, root_where_none_may_be, a_path_that_is_mounted_twice,
)  # fmt: skip


def pipeline() -> Document:
    document = older(named(render(ALL["pvc"]), "StatefulSet", "-pipeline"))
    assert document is not None
    return copy.deepcopy(document)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one.__name__)
def test_a_mistake_in_a_pod_is_refused(server: ApiServer, mistake: Callable[[Pod], None]) -> None:
    (pod,) = pods_of(named(render(ALL["pvc"]), "StatefulSet", "-pipeline"))
    create(server, pod, dry=True)
    mistake(pod["spec"])
    with pytest.raises(RefusedError, match=r"^(400|422) "):
        create(server, pod, dry=True)


def test_a_selector_that_matches_nothing_is_refused(server: ApiServer) -> None:
    document = pipeline()
    document["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "other"
    with pytest.raises(RefusedError, match=r"422 Invalid.*selector"):
        create(server, document, dry=True)


def test_a_label_that_is_none_is_refused(server: ApiServer) -> None:
    document = pipeline()
    document["spec"]["template"]["metadata"]["labels"]["team"] = "two words"
    with pytest.raises(RefusedError, match=r"422 Invalid.*labels"):
        create(server, document, dry=True)
