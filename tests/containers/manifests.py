"""Rendered manifests as ``podman kube play`` understands them: what a cluster fills in before a kubelet starts a pod.

Plain data in, plain data out; runs nothing.
"""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]
WORKLOADS = ("StatefulSet", "Deployment", "Pod", "Job")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_GPU = "nvidia.com/gpu"
_SIZE = {"Ki": "k", "Mi": "m", "Gi": "g"}
_VARIABLE = re.compile(r"\$\((\w+)\)")


@dataclass
class Pod:
    """One pod, ready to be played."""

    name: str
    ip: str
    labels: Mapping[str, str]
    manifest: Manifest
    probes: Mapping[str, Mapping[str, Manifest]]
    """By container and kind."""
    memory_volumes: Mapping[str, str]
    """Mount options of volumes in memory, by the volume's name."""
    aliases: tuple[str, ...] = ()
    """Host names under which the others find it."""

    @property
    def containers(self) -> list[str]:
        """Names of the containers that keep running."""
        return [container["name"] for container in self.manifest["spec"]["containers"]]

    @property
    def grace_s(self) -> int:
        """How long it gets to end."""
        return int(self.manifest["spec"].get("terminationGracePeriodSeconds", 30))


@dataclass
class Node:
    """The one node of the lab: gives addresses and devices away, each once."""

    prefix: str
    """Of its addresses: the first three numbers."""
    namespace: str
    images: Mapping[str, str]
    """Name of an image in the lab by that in the manifest."""
    hosts: Iterator[int] = field(default_factory=lambda: itertools.count(10))
    gpus: Iterator[int] = field(default_factory=itertools.count)

    def pods(self, documents: list[Manifest]) -> list[Pod]:
        """All pods of a release, in the order of the documents."""
        found = [
            self._pod(name, template, documents)
            for document in documents
            if document["kind"] in WORKLOADS
            for name, template in _templates(document)
        ]
        for pod in found:
            pod.aliases = tuple(_aliases(pod, documents, self.namespace))
        return found

    def _pod(self, name: str, template: Manifest, documents: list[Manifest]) -> Pod:
        spec = copy.deepcopy(template["spec"])
        ip = f"{self.prefix}.{next(self.hosts)}"
        metadata = {"name": name, "labels": template.get("metadata", {}).get("labels", {})}
        memory = _rename_volumes(name, spec)
        self._hand_out_claims(spec, documents)
        probes = {}
        for container in _all_containers(spec):
            probes[container["name"]] = {kind: container.pop(kind) for kind in PROBES if kind in container}
            container.pop("lifecycle", None)  # the lab takes pods out of no Service
            container["image"], container["imagePullPolicy"] = self.images[container["image"]], "Never"
            self._fill_in(container, name, ip)
            self._hand_out_gpus(container)
        for foreign in ("affinity", "topologySpreadConstraints", "serviceAccountName", "tolerations", "nodeSelector"):
            spec.pop(foreign, None)
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        return Pod(name, ip, metadata["labels"], manifest, probes, memory)

    def _fill_in(self, container: Manifest, pod: str, ip: str) -> None:
        """Environment as a kubelet makes it: what the pod is called, and ``$(NAME)``."""
        known: dict[str, str] = {}
        fields = {"metadata.name": pod, "metadata.namespace": self.namespace, "status.podIP": ip}
        for entry in container.get("env") or ():
            path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            if path in fields:
                del entry["valueFrom"]
                entry["value"] = fields[path]
            if "value" in entry:
                entry["value"] = _VARIABLE.sub(lambda match: known.get(match[1], match[0]), entry["value"])
                known[entry["name"]] = entry["value"]
        for words in ("args", "command"):
            if words in container:
                container[words] = [
                    _VARIABLE.sub(lambda match: known.get(match[1], match[0]), str(word)) for word in container[words]
                ]

    def _hand_out_gpus(self, container: Manifest) -> None:
        """What a device plugin does: a device of its own for every one that is asked for."""
        resources = container.get("resources") or {}
        resources.get("requests", {}).pop(_GPU, None)
        limits = resources.get("limits", {})
        for _ in range(int(limits.pop(_GPU, 0))):
            limits[f"{_GPU}={next(self.gpus)}"] = 1

    def _hand_out_claims(self, spec: Manifest, documents: list[Manifest]) -> None:
        """What a DRA driver does: one device for every request of a claim, seen by those who name it."""
        templates = {
            document["metadata"]["name"]: [
                request["name"] for request in document["spec"]["spec"]["devices"]["requests"]
            ]
            for document in documents
            if document["kind"] == "ResourceClaimTemplate"
        }
        given = {
            (claim["name"], request): next(self.gpus)
            for claim in spec.pop("resourceClaims", ())
            for request in templates[claim["resourceClaimTemplateName"]]
        }
        for container in _all_containers(spec):
            for claim in container.get("resources", {}).pop("claims", ()):
                limits = container["resources"].setdefault("limits", {})
                limits[f"{_GPU}={given[claim['name'], claim['request']]}"] = 1


def common(documents: list[Manifest]) -> list[Manifest]:
    """What pods mount or read: configuration and secrets, in the form podman stores."""
    found = [copy.deepcopy(document) for document in documents if document["kind"] in ("ConfigMap", "Secret")]
    for document in found:
        document["metadata"] = {"name": document["metadata"]["name"]}
    return found


def _templates(document: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Name and template of every pod that a controller would make."""
    name, kind = document["metadata"]["name"], document["kind"]
    if kind == "Pod":
        yield name, document
        return
    for index in range(1 if kind == "Job" else document["spec"].get("replicas", 1)):
        yield f"{name}-{index}", document["spec"]["template"]


def _aliases(pod: Pod, documents: list[Manifest], namespace: str) -> Iterator[str]:
    """Names of the Services that select a pod, and of the pod within a headless one."""
    for document in documents:
        selector = document["spec"].get("selector") if document["kind"] == "Service" else None
        if selector and selector.items() <= pod.labels.items():
            service = document["metadata"]["name"]
            for name in (service, f"{pod.name}.{service}"):
                yield name
                yield f"{name}.{namespace}.svc.cluster.local"


def _all_containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def _rename_volumes(pod: str, spec: Manifest) -> dict[str, str]:
    """Gives volumes names that no other pod has; returns mount options of those in memory.

    Podman would make a volume in memory for each container, not one for the pod.
    """
    memory: dict[str, str] = {}
    owner = spec.get("securityContext", {})
    uid = owner.get("runAsUser", 0)
    gid = owner.get("fsGroup", owner.get("runAsGroup", uid))
    for volume in spec.get("volumes") or ():
        volume["name"] = f"{pod}-{volume['name']}"
        empty = volume.get("emptyDir")
        if empty is None:
            continue
        match = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", str(empty.get("sizeLimit", "64Mi")))
        assert match is not None, empty
        memory[volume["name"]] = f"size={match[1]}{_SIZE[match[2]]},mode=1770,uid={uid},gid={gid}"
        del volume["emptyDir"]
        volume["persistentVolumeClaim"] = {"claimName": volume["name"]}
    for container in _all_containers(spec):
        for mount in container.get("volumeMounts") or ():
            mount["name"] = f"{pod}-{mount['name']}"
    return memory
