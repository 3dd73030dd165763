"""Documents of the chart as an API server of Kubernetes 1.20 knows them.

What that version has under another name is renamed; what it has not is put as what it had, so that all the rest of a
document is still looked at.  Plain data in, plain data out.
"""

import copy
from collections.abc import Iterator
from typing import Any

from tests.helm.rendering import Document, pods

_RENAMED = {
    ("policy/v1", "PodDisruptionBudget"): "policy/v1beta1",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "autoscaling/v2beta2",
}
FOREIGN = {
    "ServiceMonitor", "PrometheusRule", "ScaledObject", "TrainJob", "TrainingRuntime", "ResourceClaimTemplate",
}  # fmt: skip
"""Kinds it does not know: those of operators, and claims of devices."""
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def older(document: Document) -> Document | None:
    """A copy that version 1.20 understands; None where it does not know the kind."""
    if document["kind"] in FOREIGN:
        return None
    found = copy.deepcopy(document)
    found["apiVersion"] = _RENAMED.get((found["apiVersion"], found["kind"]), found["apiVersion"])
    for _, _, pod in pods([found]):
        _older_pod(pod)
    return found


def pods_of(document: Document) -> Iterator[Document]:
    """The pods that a document leads to, as its controller would make them and version 1.20 understands them.

    That version looks into the pods of a StatefulSet when they are made, not before.
    """
    for owner, metadata, spec in pods([copy.deepcopy(document)]):
        _older_pod(spec)
        for claim in document.get("spec", {}).get("volumeClaimTemplates") or ():
            name = claim["metadata"]["name"]
            spec.setdefault("volumes", []).append({"name": name, "persistentVolumeClaim": {"claimName": name}})
        name = f"{owner.rpartition('/')[2]}-0"
        own = {**metadata, "name": name, "namespace": document["metadata"]["namespace"]}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": own, "spec": {"restartPolicy": "Always", **spec}}


def _older_pod(pod: Document) -> None:
    pod.pop("resourceClaims", None)
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        _older_container(container)
    for volume in pod.get("volumes", ()):
        if "image" in volume:
            del volume["image"]
            volume["emptyDir"] = {}


def _older_container(container: dict[str, Any]) -> None:
    container.get("resources", {}).pop("claims", None)
    for probe in _probes(container):
        if "grpc" in probe:
            probe["tcpSocket"] = {"port": probe.pop("grpc")["port"]}
    stop = container.get("lifecycle", {}).get("preStop", {})
    if "sleep" in stop:
        stop["exec"] = {"command": ["sleep", str(stop.pop("sleep")["seconds"])]}


def _probes(container: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (container[name] for name in _PROBES if name in container)
