"""Pods of a Service as a test moves them, and the slices that a cluster would write about them.

Knows what must be found, by the pods alone; does not look at slices to say so.
"""

import random
from dataclasses import dataclass, field, replace

from live_avatar.services.gateway.discovery.slices import PortNames
from live_avatar.services.gateway.discovery.source import Address

from .fake_objects import Object, Objects, Place

NAMESPACE, SERVICE = "default", "pipelines"
PORTS = PortNames("audio-encoder", "vae-decoder")
HEAD, DECODER = 50_051, 50_052
SLICES = Place("endpointslices", NAMESPACE)
CONDITIONS: tuple[tuple[Object | None, bool], ...] = (
    ({"ready": True, "serving": True, "terminating": False}, True),
    ({"ready": True}, True),
    ({"ready": None}, True),
    (None, True),
    ({"ready": False, "serving": False, "terminating": False}, False),
    ({"ready": False, "serving": True, "terminating": True}, False),
)
"""What a slice may say of an endpoint, and whether it takes new sessions then."""


@dataclass(frozen=True)
class Pod:
    """One pipeline."""

    number: int
    home: str
    """The slice that tells of it."""
    condition: int = 0

    @property
    def host(self) -> str:
        return f"10.1.{self.number // 250}.{self.number % 250 + 1}"

    @property
    def address(self) -> Address:
        return Address(f"{self.host}:{HEAD}", f"{self.host}:{DECODER}")

    def endpoint(self) -> Object:
        """As a slice tells of it."""
        target = {"kind": "Pod", "name": f"pod-{self.number}", "uid": f"uid-{self.number}"}
        conditions = CONDITIONS[self.condition][0]
        return {
            "addresses": [self.host], "targetRef": target, **({} if conditions is None else {"conditions": conditions})
        }  # fmt: skip


def slice_of(name: str, pods: list[Pod], service: str = SERVICE) -> Object:
    """A slice that tells of ``pods``."""
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        # A controller writes null where there is nobody.
        "endpoints": [pod.endpoint() for pod in pods] or None,
        "ports": [
            {"name": PORTS.head, "port": HEAD, "protocol": "TCP"},
            {"name": PORTS.decoder, "port": DECODER, "protocol": "TCP"},
            {"name": "health", "port": 50_059, "protocol": "TCP"},
        ],
    }


@dataclass
class World:
    """All pods; every move is written to a server at once."""

    objects: Objects
    seed: int
    homes: tuple[str, ...] = ("pipelines-a", "pipelines-b", "pipelines-c")
    pods: dict[int, Pod] = field(default_factory=dict)
    born: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._written: dict[str, Object] = {}

    def expected(self) -> frozenset[Address]:
        """Every pipeline that takes new sessions."""
        return frozenset(pod.address for pod in self.pods.values() if CONDITIONS[pod.condition][1])

    def step(self) -> None:
        """One random move."""
        move = self._random.choice(
            (self.bear, self.bear, self.bury, self.change, self.change, self.move, self.stranger)
        )
        move()

    def bear(self) -> None:
        """A pod comes, unless there are many; not ready more often than not."""
        if len(self.pods) < 12:
            self.born += 1
            condition = self._random.randrange(len(CONDITIONS))
            self._put(Pod(self.born, self._random.choice(self.homes), condition))

    def bury(self) -> None:
        """A pod goes."""
        if (pod := self._any()) is not None:
            del self.pods[pod.number]
            self._write(pod.home)

    def change(self) -> None:
        """A pod becomes ready, not ready, or ends."""
        if (pod := self._any()) is not None:
            self._put(replace(pod, condition=self._random.randrange(len(CONDITIONS))))

    def move(self) -> None:
        """A pod is told of by another slice; for a moment by both."""
        if (pod := self._any()) is not None:
            self._put(replace(pod, home=self._random.choice(self.homes)))
            self._write(pod.home)

    def stranger(self) -> None:
        """Another Service changes; nobody here must notice."""
        other = Pod(10_000 + self._random.randrange(5), "others")
        self._store("others", slice_of("others", [other], service="others"))

    def _any(self) -> Pod | None:
        return self._random.choice(list(self.pods.values())) if self.pods else None

    def _put(self, pod: Pod) -> None:
        self.pods[pod.number] = pod
        self._write(pod.home)

    def _write(self, home: str) -> None:
        """Brings the slice ``home`` up to date; an empty one goes now and then."""
        pods = [pod for pod in self.pods.values() if pod.home == home]
        if not pods and home in self._written and self._random.random() < 0.5:
            del self._written[home]
            self.objects.delete(SLICES, home)
        else:
            self._store(home, slice_of(home, pods))

    def _store(self, name: str, what: Object) -> None:
        if name in self._written:
            self.objects.replace(SLICES, name, what)
        else:
            self.objects.create(SLICES, what)
        self._written[name] = what
