"""Pretended GPUs: every container of the rendered pod sees its own device and no other, in each mode that pins.

Device nodes and namespaces are real; that CUDA honours them is for a machine with GPUs to show.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helm.rendering import NAMESPACE, RELEASE, render

from . import lab
from .kubelet import Kubelet, clean_up
from .manifests import Manifest, Node, Pod

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1_200)]

PREFIX = "10.89.214"
PIPELINE = f"{RELEASE}-live-avatar-pipeline"
STAGES = [f"denoise-stage-{step}" for step in range(4)]


def idle(rendered: list[Manifest]) -> list[Pod]:
    """The pods of pipelines, with the containers' devices and limits but nothing running in them."""
    kinds = ("ResourceClaimTemplate", "StatefulSet")
    kept = [one for one in rendered if one["kind"] in kinds and one["metadata"]["name"].startswith(PIPELINE[:-9])]
    kept = [one for one in kept if one["kind"] != "StatefulSet" or one["metadata"]["name"] == PIPELINE]
    images = {container["image"]: lab.BASE for one in kept for container in _containers(one)}
    pods = Node(PREFIX, NAMESPACE, images).pods(kept)
    for pod in pods:
        for container in pod.manifest["spec"]["containers"]:
            container["command"], container["args"] = ["sleep", "600"], []
            container["volumeMounts"] = []
        pod.manifest["spec"] |= {"volumes": [], "terminationGracePeriodSeconds": 1}
        pod.memory_volumes = {}
        pod.probes = {name: {} for name in pod.containers}
    return pods


def _containers(document: Manifest) -> Iterator[Manifest]:
    yield from document["spec"].get("template", {}).get("spec", {}).get("containers", ())


def devices(pod: Pod) -> dict[str, list[str]]:
    """What every container sees: its device nodes, and what CUDA is told."""
    reported = "tr '\\0' '\\n' < /proc/1/environ | sed -n 's/^CUDA_VISIBLE_DEVICES=//p'"
    script = f"ls /dev | grep -E '^nvidia[0-9]'; {reported}"
    return {
        name: lab.podman("exec", f"{pod.name}-{name}", "sh", "-c", script).stdout.split() for name in pod.containers
    }


@pytest.mark.parametrize(
    "values",
    [{"gpu": {"mode": "devicePlugin"}}, {"gpu": {"mode": "dra"}},
     {"gpu": {"mode": "devicePlugin"}, "audioEncoder": {"gpu": "own"}}],
    ids=["device plugin", "claims", "six cards"],
)  # fmt: skip
def test_every_container_sees_its_own_device(values: dict[str, Any]) -> None:
    lab.set_up()
    clean_up()
    (pod,) = idle(render(values))
    with Kubelet([pod], [], PREFIX):
        seen = devices(pod)
    encoder = seen.pop("audio-encoder")
    if "audioEncoder" in values:
        seen["audio-encoder"] = encoder
    else:
        assert encoder == []
    assert list(seen)[:5] == [*STAGES, "vae-decoder"]
    given = [one[-1] for one in seen.values()]
    assert list(seen.values()) == [[f"nvidia{number}", number] for number in given]
    assert len(set(given)) == len(given)


def test_more_cards_than_there_are_do_not_start() -> None:
    lab.set_up()
    clean_up()
    (pod, other) = idle(render({"pipeline": {"replicas": 2}}))
    with pytest.raises(AssertionError, match="unresolvable CDI devices"), Kubelet([pod, other], [], PREFIX):
        pass
