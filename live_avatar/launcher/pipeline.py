"""A whole pipeline with its gateway as processes on this machine.

Knows which services there are and who must know whom; nothing of what they compute.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from live_avatar.config import PRESETS, TINY
from live_avatar.launcher.child import QUIET, Child, LaunchError, Program
from live_avatar.launcher.layout import Layout
from live_avatar.launcher.ports import check_free, free_ports
from live_avatar.launcher.tls_folder import TlsFolder
from live_avatar.proxies import DIRECT
from live_avatar.v1.avatar_service_pb2 import GetServerInfoRequest
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub

HOST = "127.0.0.1"
IN_MEMORY = "memory://"
START_TIMEOUT_S = 120.0
"""From a service's start to its port; loading large weights takes most of it."""
COMPILE_TIMEOUT_S = 900.0
"""The same where code is generated first, by all services at once."""
READY_TIMEOUT_S = 30.0
DRAIN_S = 1.0
STOP_TIMEOUT_S = 3.5
"""From asking all services to end to ending those that are left."""
_CALL_TIMEOUT_S = 2.0
_POLL_S = 0.1
GATEWAY, ENCODER, DECODER = "gateway", "audio-encoder", "vae-decoder"

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Which of the faster ways the services take (docs/performance/fast.md); the default is none."""

    compiled: bool = False
    """Stages and decoder generate code for the largest picture before they are ready."""
    fp8_report: Path | None = None
    """Of ``live_avatar.services.denoise_stage.quantization_check``: linear layers in 8-bit floats."""
    fp8_kv: bool = False
    """Keys and values in 8-bit floats."""

    @property
    def start_timeout_s(self) -> float:
        """From a service's start to its port."""
        return COMPILE_TIMEOUT_S if self.compiled else START_TIMEOUT_S

    @property
    def of_decoder(self) -> tuple[str, ...]:
        """Flags of the VAE decoder."""
        return ("--forward", "compiled") if self.compiled else ()

    @property
    def of_stages(self) -> tuple[str, ...]:
        """Flags of every denoise stage."""
        linear = ("--linear", "fp8", "--fp8-report", str(self.fp8_report)) if self.fp8_report else ()
        return (*self.of_decoder, *linear, *(("--kv", "fp8") if self.fp8_kv else ()))


GATEWAY_VARIABLES = tuple(
    f"LIVE_AVATAR__{name}"
    for name in (
        "AUDIT__", "AUTH__", "DISCLOSURE__", "ENDPOINT", "LIMITS__", "LIVE__", "PREVIOUS_TOKEN_KEY", "QUOTAS__",
        "RELAY__", "SIGNING__", "STORE__", "TOKEN_KEY", "USAGE__",
    )
)  # fmt: skip
"""Beginnings of the variables of settings that the gateway alone has: the other services do not know them, and need
not know its secrets."""
DECODER_VARIABLES = ("LIVE_AVATAR__LABEL__", "LIVE_AVATAR__WATERMARK__")
"""The same of the VAE decoder."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to start."""

    layout: Layout
    preset: str = TINY.name
    """Name, or .json file that describes one."""
    weights: Path | None = None
    """Folder of converted weights; None: random ones."""
    redis: str = IN_MEMORY
    gateway_port: int = 0
    reflection: bool = False
    """The gateway answers gRPC reflection."""
    logs: Path = Path("out/logs")
    speed: Speed = Speed()
    tls: TlsFolder | None = None
    """Certificates of all services; None: plain text."""
    api_key: str = ""
    """With which the gateway is asked whether it is ready; empty: it authenticates nobody."""


class LocalPipeline:
    """All processes of a plan, as a context manager: once entered the gateway is ready, once left no process is.

    To be entered in the main thread: the kernel ends the services with the thread that made them.

    Args:
        plan: what to start.
        report: gets a line per service as it starts.

    Raises:
        LaunchError: on entry; a service did not start.
    """

    def __init__(self, plan: Plan, report: Report) -> None:
        self._plan = plan
        self._report = report
        self._stack = contextlib.ExitStack()
        self.services: dict[str, Child] = {}
        """By name, in the order of their start."""

    @property
    def gateway(self) -> str:
        """Address of the gateway."""
        return self._address(GATEWAY)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_signals_as_exits())
            stack.callback(self._stop)
            self._plan.logs.mkdir(parents=True, exist_ok=True)
            self._start_all()
            self._wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def ended(self) -> list[Child]:
        """Services that have ended by themselves."""
        return [child for child in self.services.values() if not child.alive]

    def restart(self, name: str) -> None:
        """Starts a service that has ended, on the port it had; its neighbours find it again by themselves.

        Raises:
            LaunchError: it did not start; it has ended again then.
        """
        before = self.services[name]
        before.reap(STOP_TIMEOUT_S)
        try:
            self._start(before.program, before.port)
        except LaunchError:
            self.services[name].kill()
            self.services[name].reap(STOP_TIMEOUT_S)
            raise

    def _start_all(self) -> None:
        """Starts all services at once, on ports chosen beforehand: their links wait for one another."""
        check_free(HOST, self._plan.gateway_port)
        programs = self._programs()
        started = time.monotonic()
        for program, port in programs:
            self._make(program, port)
        for child in self.services.values():
            self._wait_listening(child, started)

    def _programs(self) -> list[tuple[Program, int]]:
        """Every service with its port, the decoder first."""
        plan = self._plan
        names = [DECODER, *(f"denoise-stage-{steps.start}" for steps in reversed(plan.layout.stages)), ENCODER]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        address = {name: f"{HOST}:{port}" for name, port in ports.items()}
        model = ("--preset", plan.preset, *(("--weights", str(plan.weights)) if plan.weights else ()))
        programs = [_program(DECODER, "vae_decoder", *model, *plan.speed.of_decoder)]
        for steps, following in zip(reversed(plan.layout.stages), names, strict=False):
            own = ("--steps", ",".join(map(str, steps)), "--step-count", str(plan.layout.step_count))
            name = f"denoise-stage-{steps.start}"
            programs.append(
                _program(name, "denoise_stage", "--next", address[following], *own, *model, *plan.speed.of_stages)
            )
        # On one machine several services may well share one device.
        shared = "--allow-shared-devices"
        programs.append(_program(ENCODER, "audio_encoder", "--next", address[names[-2]], shared, *model))
        pipeline = ["--pipelines", f"{address[ENCODER]}/{address[DECODER]}"]
        if plan.preset not in PRESETS:
            pipeline += ["--preset-file", plan.preset]
        if plan.reflection:
            pipeline.append("--server.reflection")
        gateway = _program(GATEWAY, "gateway", *pipeline, "--store.url", plan.redis, shared)
        # No tensors: what portraits took goes back to the system.
        gateway = replace(gateway, environment=QUIET, withheld=DECODER_VARIABLES)
        programs = [replace(program, withheld=_withheld(program.name)) for program in programs]
        placed = [*((program, ports[program.name]) for program in programs), (gateway, plan.gateway_port)]
        return [(with_tls(program, plan.tls), port) for program, port in placed]

    def _start(self, program: Program, port: int) -> None:
        self._make(program, port)
        self._wait_listening(self.services[program.name], time.monotonic())

    def _make(self, program: Program, port: int) -> None:
        """Makes a process; no signal comes between its birth and our knowing of it."""
        with _signals_later():
            self.services[program.name] = Child(program, self._plan.logs / f"{program.name}.log", port)

    def _wait_listening(self, child: Child, started: float) -> None:
        try:
            child.wait_listening(self._plan.speed.start_timeout_s)
        except LaunchError:
            for line in child.last_lines():
                self._report(line)
            raise
        taken_s = time.monotonic() - started
        self._report(f"{child.program.name:16} {HOST}:{child.port}  after {taken_s:.1f} s, log {child.log}")

    def _wait_ready(self) -> None:
        """Returns when the gateway takes sessions."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        with self._channel() as channel:
            while reason := _why_not_ready(channel, self._plan.api_key):
                for child in self.ended():
                    raise LaunchError(child.obituary(child.process.returncode))
                if time.monotonic() > deadline:
                    raise LaunchError(f"the gateway is not ready after {READY_TIMEOUT_S:.0f} s: {reason}")
                time.sleep(_POLL_S)

    def _channel(self) -> grpc.Channel:
        """To the gateway, which has the name of its certificate whatever its address is."""
        tls = self._plan.tls
        if tls is None:
            return grpc.insecure_channel(self.gateway, options=DIRECT)
        credentials = grpc.ssl_channel_credentials(tls.authority.read_bytes())
        name = ("grpc.ssl_target_name_override", tls.name)
        return grpc.secure_channel(self.gateway, credentials, options=(*DIRECT, name))

    def _stop(self) -> None:
        """Ends all services, those that listen to others first; returns when none is left."""
        with _handlers(signal.SIG_IGN):  # what runs within is short
            deadline = time.monotonic() + STOP_TIMEOUT_S
            children = list(reversed(self.services.values()))
            for child in children:
                child.terminate()
            for child in children:
                if not child.reap(max(0.0, deadline - time.monotonic())):
                    child.kill()
            for child in children:
                child.reap(STOP_TIMEOUT_S)

    def _address(self, name: str) -> str:
        return f"{HOST}:{self.services[name].port}"


def _withheld(name: str) -> tuple[str, ...]:
    """Variables that are not for the service ``name``, which is not the gateway."""
    return GATEWAY_VARIABLES if name == DECODER else (*GATEWAY_VARIABLES, *DECODER_VARIABLES)


def _program(name: str, service: str, *flags: str) -> Program:
    place = ("--server.host", HOST, "--server.drain-seconds", str(DRAIN_S))
    return Program(name=name, module=f"live_avatar.services.{service}", flags=(*flags, *place))


def with_tls(program: Program, tls: TlsFolder | None) -> Program:
    """``program`` with the flags of its certificates: all but the gateway, which strangers call, demand one."""
    if tls is None:
        return program
    calls = () if program.name == DECODER else tls.client_flags
    return replace(program, flags=(*program.flags, *tls.server_flags(mutual=program.name != GATEWAY), *calls))


def _why_not_ready(channel: grpc.Channel, api_key: str) -> str:
    """What keeps the gateway from taking sessions; empty where nothing does."""
    gateway = AvatarServiceStub(channel)
    try:
        metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        info = gateway.GetServerInfo(GetServerInfoRequest(), timeout=_CALL_TIMEOUT_S, metadata=metadata)
    except grpc.RpcError as error:
        return _why_unhealthy(channel) if error.code() is grpc.StatusCode.UNAUTHENTICATED else str(error)
    return "" if info.session_capacity else "; ".join(info.pipelines)


def _why_unhealthy(channel: grpc.Channel) -> str:
    """What a gateway says that tells strangers nothing more."""
    try:
        request = HealthCheckRequest(service="readiness")
        health = HealthStub(channel).Check(request, timeout=_CALL_TIMEOUT_S)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        return str(error)
    return "" if health.status == HealthCheckResponse.SERVING else "its health is NOT_SERVING"


@contextlib.contextmanager
def _signals_as_exits() -> Iterator[None]:
    """Turns the signals that end a program into an exit that runs what must be run."""

    def exit_on_signal(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, exit_on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Holds signals back until its end; what runs within must be short."""
    came: list[int] = []
    with _handlers(lambda number, _frame: came.append(number)):
        yield
    for number in came:
        signal.raise_signal(number)


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    """Handles the signals that end a program for a while."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
