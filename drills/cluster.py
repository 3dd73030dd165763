"""Everything that the drills disturb: store, two pipelines, two gateways and a balancer, as processes.

Knows who must know whom; nothing of what a drill does to them.
"""

import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from drills.balancer import balancer
from drills.process import HOST, Process
from drills.redis import MASTER, Store, store
from live_avatar.client import AvatarClient, AvatarError
from live_avatar.config import TINY
from live_avatar.launcher.child import QUIET, QUIET_WITH_TENSORS, LaunchError
from live_avatar.launcher.layout import Layout, parse_layout
from live_avatar.launcher.pipeline import DECODER, ENCODER
from live_avatar.launcher.ports import free_ports

LAYOUT = parse_layout("2x2")
PIPELINES = 2
READY_S = 120.0
DRAIN_S = 10.0
_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """What to start."""

    logs: Path
    preset: str = TINY.name
    """Name, or .json file that describes one."""
    layout: Layout = LAYOUT
    gateways: int = 2
    with_balancer: bool = True
    gateway_flags: Sequence[str] = ()
    environment: Sequence[tuple[str, str]] = ()
    """Added to that of all services."""


class Cluster:
    """Processes by role; ``running`` starts them."""

    def __init__(self, plan: ClusterPlan) -> None:
        plan.logs.mkdir(parents=True, exist_ok=True)
        self._plan = plan
        self._secret = secrets.token_hex(32)
        services = len(plan.layout.stages) + 2
        ports = iter(free_ports(3 + PIPELINES * services + 2 * plan.gateways + 1))
        self.store: Store = store([next(ports) for _ in range(3)], plan.logs)
        self.pipelines = [self._pipeline(number, [next(ports) for _ in range(services)]) for number in range(PIPELINES)]
        self.gateways = [self._gateway(number, next(ports), next(ports)) for number in range(plan.gateways)]
        self.balancer: Process | None = None
        if plan.with_balancer:
            addresses = [gateway.address for gateway in self.gateways]
            self.balancer = balancer(next(ports), addresses, plan.logs)

    @property
    def target(self) -> str:
        """Address for clients."""
        return (self.balancer or self.gateways[0]).address

    @property
    def services(self) -> list[Process]:
        """Of all pipelines."""
        return [service for pipeline in self.pipelines for service in pipeline]

    @property
    def processes(self) -> list[Process]:
        """All of them, in the order of their start."""
        before = [self.balancer] if self.balancer else []
        return [*self.store.processes, *self.services, *self.gateways, *before]

    @property
    def disturbed(self) -> list[Process]:
        """Those that random faults may meet."""
        return [process for process in self.processes if process not in self.store.processes]

    async def primary(self) -> str:
        """Address of the Redis that takes writes now, as the sentinel knows it."""
        async with Redis.from_url(f"redis://{self.store.sentinel.address}") as sentinel:
            command = ("SENTINEL", "get-master-addr-by-name", MASTER)
            host, port = await sentinel.execute_command(*command)  # type: ignore[no-untyped-call]
        return f"{host.decode()}:{port.decode()}"

    async def wait_ready(self, seconds: float = READY_S) -> None:
        """Returns when every gateway takes sessions on every pipeline."""
        deadline = time.monotonic() + seconds
        for gateway in self.gateways:
            while not await _is_ready(gateway.address):
                if time.monotonic() > deadline:
                    raise LaunchError(f"{gateway.name} does not take sessions after {seconds:.0f} s")
                await asyncio.sleep(_POLL_S)

    def _pipeline(self, number: int, ports: Sequence[int]) -> list[Process]:
        """The services of one pipeline, the decoder first."""
        plan = self._plan
        model = ("--preset", plan.preset)
        made = [self._service(f"{DECODER}-{number}", "vae_decoder", ports[0], *model)]
        for port, steps in zip(ports[1:-1], reversed(plan.layout.stages), strict=True):
            own = ("--steps", ",".join(map(str, steps)), "--step-count", str(plan.layout.step_count))
            name = f"denoise-stage-{steps.start}-{number}"
            made.append(self._service(name, "denoise_stage", port, "--next", made[-1].address, *own, *model))
        flags = ("--next", made[-1].address, "--allow-shared-devices", *model)
        made.append(self._service(f"{ENCODER}-{number}", "audio_encoder", ports[-1], *flags))
        return made

    def _gateway(self, number: int, port: int, relay_port: int) -> Process:
        pipelines = ",".join(f"{services[-1].address}/{services[0].address}" for services in self.pipelines)
        flags = ["--pipelines", pipelines, "--store.url", f"redis://{self.store.primary.address}/0"]
        if self._plan.preset.endswith(".json"):
            flags += ["--preset-file", self._plan.preset]
        flags += ["--allow-shared-devices", *self._plan.gateway_flags]
        return self._service(f"gateway-{number}", "gateway", port, *flags)

    def _service(self, name: str, module: str, port: int, *flags: str) -> Process:
        place = ("--server.host", HOST, "--server.port", str(port), "--server.drain-seconds", str(DRAIN_S))
        command = [sys.executable, "-P", "-m", f"live_avatar.services.{module}", *flags, *place]
        quiet = QUIET if module == "gateway" else QUIET_WITH_TENSORS
        environment = {**quiet, **dict(self._plan.environment)}
        if module == "gateway":
            environment["LIVE_AVATAR__TOKEN_KEY"] = self._secret
        return Process(name, command, port, self._plan.logs / f"{name}.log", environment)


async def _is_ready(address: str) -> bool:
    with contextlib.suppress(AvatarError):
        async with AvatarClient(address) as client:
            info = await client.server_info()
        return bool(info.session_capacity) and sum("(ready)" in line for line in info.pipelines) >= PIPELINES
    return False


@asynccontextmanager
async def running(plan: ClusterPlan) -> AsyncIterator[Cluster]:
    """A cluster that is ready; no process of it is left afterwards.

    Raises:
        LaunchError: a process did not start, or no gateway takes sessions.
        ProgramMissingError: there is no balancer.
    """
    cluster = Cluster(plan)
    try:
        for process in cluster.processes:
            process.start()
        for process in cluster.processes:
            await process.wait_listening()
        await cluster.wait_ready()
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.kill()
