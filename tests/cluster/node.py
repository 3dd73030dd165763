"""The one node of a cluster without nodes: gives pods a place and an address, and says of them what a kubelet would.

Knows pods; the controllers that make and watch them are real.
"""

import time
from dataclasses import dataclass, field

from .servers import MERGE, ApiServer, Body

_NAME = "the-node"
_SETTLE_S = 30.0


@dataclass
class Node:
    """Plays the kubelet for the pods of one StatefulSet.

    Args:
        server: the API server.
        namespace: of the pods.
        labels: which pods.
        count: how many there should be.
    """

    server: ApiServer
    namespace: str
    labels: dict[str, str]
    count: int
    addresses: dict[str, str] = field(default_factory=dict)
    """By the identity of each pod that has one."""

    def __post_init__(self) -> None:
        self._pods = f"/api/v1/namespaces/{self.namespace}/pods"
        self.server.ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NAME}})

    def wait_settled(self) -> list[Body]:
        """All pods, once the controller has made as many as there should be; each has a node and an address."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            found = self.listed()
            for pod in found:
                if pod["metadata"]["uid"] not in self.addresses:
                    self._take(pod)
            if len(found) == self.count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} pods"
            time.sleep(0.1)

    def listed(self) -> list[Body]:
        """The pods that there are."""
        selector = ",".join(f"{name}%3D{value}" for name, value in self.labels.items())
        pods: list[Body] = self.server.ask("GET", self._pods, labelSelector=selector)[1]["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def notify(self, pod: Body, *, ready: bool) -> None:
        """Says whether a pod is ready."""
        address = self.addresses[pod["metadata"]["uid"]]
        condition = {"type": "Ready", "status": str(ready)}
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]}
        self.server.ask("PATCH", f"{self._path(pod)}/status", {"status": status}, kind=MERGE)

    def delete(self, pod: Body) -> None:
        """Asks a pod to stop; it stays until it has stopped."""
        self.server.ask("DELETE", self._path(pod))

    def stopped(self, pod: Body) -> None:
        """Says that a pod has stopped; it goes."""
        self.server.ask("DELETE", self._path(pod), gracePeriodSeconds="0")

    def _take(self, pod: Body) -> None:
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": _NAME}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self.server.ask("POST", f"{self._path(pod)}/binding", binding)
        self.addresses[pod["metadata"]["uid"]] = f"10.1.0.{len(self.addresses) + 1}"
        self.notify(pod, ready=False)

    def _path(self, pod: Body) -> str:
        return f"{self._pods}/{pod['metadata']['name']}"
