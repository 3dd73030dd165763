"""Pods in the lab as a kubelet keeps them: started together, probed from outside, restarted where they hang.

Knows podman and probes; how manifests become pods is for ``manifests.py``.  A process that ends is started again by
podman itself, as the pod's restart policy says.
"""

import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from .lab import inspect, podman, seen
from .manifests import Manifest, Pod

NETWORK = "live-avatar-lab"
_POLL_S = 0.2


class Kubelet:
    """Runs pods while its context lasts.

    Args:
        pods: what to run, in this order.
        common: configuration and secrets.
        prefix: first three numbers of the network's addresses.
    """

    def __init__(self, pods: Sequence[Pod], common: Sequence[Manifest], prefix: str) -> None:
        self.pods = {pod.name: pod for pod in pods}
        self.restarts: dict[tuple[str, str], int] = {}
        """Containers that did not answer their liveness probe, and how often they were started again."""
        self._common = list(common)
        self._prefix = prefix
        self._ready: dict[tuple[str, str], bool] = {}
        self._stop = threading.Event()
        self._watchers: list[threading.Thread] = []
        self._files: list[Path] = []
        self._volumes: list[str] = []

    def __enter__(self) -> Self:
        try:
            podman("network", "create", "--ignore", "--subnet", f"{self._prefix}.0/24", NETWORK)
            for pod in self.pods.values():
                self._play(pod)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ready(self, pod: str) -> bool:
        """All containers of a pod are ready."""
        return all(self._ready.get((pod, container), False) for container in self.pods[pod].containers)

    def wait_ready(self, timeout_s: float, *, but: str = "") -> None:
        """Returns once all pods are ready; ``but`` names one that needs not be."""
        deadline = time.monotonic() + timeout_s
        while not all(self.ready(pod) for pod in self.pods if pod != but):
            assert time.monotonic() < deadline, f"not ready: {self._late()}"
            time.sleep(_POLL_S)

    def wait_unready(self, pod: str, timeout_s: float) -> None:
        """Returns once a pod is not ready."""
        deadline = time.monotonic() + timeout_s
        while self.ready(pod):
            assert time.monotonic() < deadline, f"{pod} stays ready"
            time.sleep(_POLL_S / 4)

    def process(self, pod: str, container: str) -> int:
        """Number of a container's first process on this machine; 0 while it has none."""
        return int(inspect("container", f"{pod}-{container}")["State"]["Pid"])

    def finish(self, pod: Pod, timeout_s: float) -> tuple[int, str]:
        """Runs a pod of one container that ends by itself; returns its exit code and what it wrote."""
        self._start(pod)
        (container,) = pod.containers
        code = int(podman("wait", f"{pod.name}-{container}", timeout_s=timeout_s).stdout)
        logged = podman("logs", f"{pod.name}-{container}")
        return code, logged.stdout + logged.stderr

    def _play(self, pod: Pod) -> None:
        self._start(pod)
        for container in pod.containers:
            watcher = threading.Thread(target=self._watch, args=(pod, container), daemon=True)
            watcher.start()
            self._watchers.append(watcher)

    def _start(self, pod: Pod) -> None:
        self._volumes += pod.memory_volumes
        for name, options in pod.memory_volumes.items():
            flags = (f"--opt={option}" for option in ("type=tmpfs", "device=tmpfs", f"o={options}"))
            podman("volume", "create", "--ignore", *flags, name)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
            yaml.safe_dump_all([*self._common, pod.manifest], file)
        self._files.append(Path(file.name))
        aliases = "".join(f",alias={alias}" for alias in pod.aliases)
        network = f"{NETWORK}:ip={pod.ip}{aliases}"
        podman("kube", "play", "--replace", "--network", network, seen(Path(file.name)), timeout_s=120)

    def _end(self) -> None:
        """Ends all pods and what they had; nothing is left."""
        self._stop.set()
        for watcher in self._watchers:
            watcher.join(20)
        for file in self._files:
            podman("kube", "down", "--force", seen(file), check=False, timeout_s=120)
            file.unlink()
        for volume in self._volumes:
            podman("volume", "rm", "--force", volume, check=False)
        podman("network", "rm", "--force", NETWORK, check=False)

    def _watch(self, pod: Pod, container: str) -> None:
        """Probes one container as its manifest says, from its start on and again after every restart."""
        probes = pod.probes[container]
        while not self._stop.is_set():
            self._await_start(pod, probes.get("startupProbe"))
            self._probe_on(pod, container)
            self._ready[pod.name, container] = False
            if self._stop.is_set():
                return
            self.restarts[pod.name, container] = self.restarts.get((pod.name, container), 0) + 1
            podman("restart", "--time", "1", f"{pod.name}-{container}", check=False)

    def _await_start(self, pod: Pod, probe: Manifest | None) -> None:
        for _ in range(probe.get("failureThreshold", 3) if probe else 0):
            assert probe is not None
            if self._stop.is_set() or answers(pod.ip, probe):
                return
            self._stop.wait(probe.get("periodSeconds", 10))

    def _probe_on(self, pod: Pod, container: str) -> None:
        """Keeps readiness true; returns where the container must be started again, or at the end."""
        probes = pod.probes[container]
        readiness, liveness = probes.get("readinessProbe"), probes.get("livenessProbe")
        bad, live_at = 0, 0.0
        while not self._stop.is_set():
            self._ready[pod.name, container] = readiness is None or answers(pod.ip, readiness)
            if liveness and time.monotonic() >= live_at:
                live_at = time.monotonic() + liveness.get("periodSeconds", 10)
                bad = 0 if answers(pod.ip, liveness) else bad + 1
                if bad >= liveness.get("failureThreshold", 3):
                    return
            self._stop.wait((readiness or liveness or {}).get("periodSeconds", 10))

    def _late(self) -> str:
        """Which containers are not ready, and what they logged last."""
        reported = []
        for pod in self.pods.values():
            for container in pod.containers:
                if not self._ready.get((pod.name, container), False):
                    logged = podman("logs", "--tail", "5", f"{pod.name}-{container}", check=False)
                    reported.append(f"{pod.name}/{container}: {logged.stdout}{logged.stderr}")
        return "\n".join(reported)


def answers(ip: str, probe: Manifest) -> bool:
    """Whether a probe that is asked over the network succeeds."""
    timeout_s = probe.get("timeoutSeconds", 1)
    if "tcpSocket" in probe:
        try:
            socket.create_connection((ip, probe["tcpSocket"]["port"]), timeout_s).close()
        except OSError:
            return False
        return True
    asked = probe["grpc"]
    with grpc.insecure_channel(f"{ip}:{asked['port']}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            request = HealthCheckRequest(service=asked.get("service", ""))
            answer: HealthCheckResponse = HealthStub(channel).Check(request, timeout=timeout_s)  # type: ignore[attr-defined]
        except grpc.RpcError:
            return False
    return answer.status == HealthCheckResponse.SERVING


def clean_up() -> None:
    """Removes what an earlier run that was killed has left in the lab."""
    podman("pod", "rm", "--all", "--force", "--time", "1", check=False, timeout_s=120)
    podman("volume", "prune", "--force", check=False)


def kill(process: int) -> None:
    """Ends a process of a container at once, as a crash would."""
    subprocess.run(["kill", "-KILL", str(process)], check=True)
