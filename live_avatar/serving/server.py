"""Runs a server process: load, listen, report health, drain, exit.

``run`` is all that a service's ``__main__`` calls.  The standard health service answers under four names:
``startup`` (the process is up), ``readiness`` and the empty name (it takes work), ``liveness`` (it is not stuck).
This file does not know what a service does; a ``Service`` defines it.
"""

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from live_avatar.limits import MAX_MESSAGE_BYTES
from live_avatar.serving import logs
from live_avatar.serving.errors import draining
from live_avatar.serving.freed_memory import keep_freed_memory
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.peer_names import PeerNames
from live_avatar.serving.settings import ServerSettings, TelemetrySettings
from live_avatar.serving.stream_limit import StreamLimit
from live_avatar.serving.telemetry import Telemetry
from live_avatar.serving.tls import ServerTls

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # More than is taken: gRPC itself refuses without a reason, and takes nothing of what it refuses.
    ("grpc.max_receive_message_length", 2 * MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # else a second process on the same port would start and get half the calls
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it a frozen peer is noticed after a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),  # neighbours ping more often than strangers may
)
"""The server's side of ``timing.CHANNEL_OPTIONS``."""
_PUBLIC_OPTIONS: tuple[tuple[str, int], ...] = (
    # A client that stops reading may hold 0.1 MB of video in the transport instead of 6 MB.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
    ("grpc.max_concurrent_streams", 1_000),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_connection_idle_ms", 300_000),  # without a call; its client connects again for the next one
)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_HEALTH_PERIOD_S = 0.2
_LAST_WORDS_S = 0.5
"""Time for messages already written to leave after the drain."""
_HANDLERS_END_S = 5.0
"""Time for cancelled calls to free what they hold, before the service is freed under them."""
_SWITCH_INTERVAL_S = 5e-4
"""The worker thread runs long Python loops; Python's default of 5 ms would delay every message by as much."""


class StartError(Exception):
    """The service cannot start; the message says why in a sentence for the operator."""


async def _at_once() -> None:
    """A drain with nothing to wait for."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a loaded service gives to the life cycle."""

    register: Callable[[grpc.aio.Server], None]
    """Adds its servicers to a server that has not started."""
    grpc_names: Sequence[str] = ()
    """Full names of those services, for reflection."""
    interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
    """Of its calls, and of those of health and reflection on the same port; errors that they raise become statuses."""
    loaded: Mapping[str, object] = field(default_factory=dict)
    """What the line at start says: preset, weights, steps, device."""
    ready: Callable[[], bool] = lambda: True
    """Takes new work."""
    alive: Callable[[], bool] = lambda: True
    """Not stuck; must not look at neighbours, or one fault restarts them all."""
    drain: Callable[[], Coroutine[Any, Any, None]] = _at_once
    """Refuses new sessions from its call on; returns when the running ones have ended."""


Build = Callable[[Telemetry], AbstractAsyncContextManager[Service]]
"""Loads the service on entry (blocking work in a thread), frees everything on exit."""


def run(name: str, server: ServerSettings, telemetry: TelemetrySettings, build: Build, *, public: bool = False) -> int:
    """Runs a service until SIGTERM or SIGINT.

    Prints one JSON line on stdout when it listens: ``{"event": "listening", "service": ..., "port": ..., ...}``.  A
    second signal cuts the drain short.

    Args:
        name: of the service in logs, metrics and traces.
        server: where it listens.
        telemetry: where traces and metrics go.
        build: loads it.  ``StartError``, ``OSError`` and ``ValueError`` from its entry are faults of the operator's and
            become one line; anything else is ours and is logged with its traceback.
        public: for a port that strangers reach: small windows, few streams.

    Returns:
        The process's exit code: 0 after a signal, 1 where it could not start or broke.
    """
    logs.configure(telemetry.log_level, name)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    if not public:
        keep_freed_memory()  # a public service has no tensors: what portraits took goes back to the system
    log = structlog.get_logger()
    try:
        with _telemetry(telemetry, name) as telemetry_observer:
            asyncio.run(_Life(name, server, telemetry_observer, public=public).live(build))
    except asyncio.CancelledError:
        log.info("stopped before it listened")
    except StartError as error:
        log.error("cannot start", reason=str(error))
        return 1
    except Exception as error:
        log.exception("broke", reason=logs.cause_of(error))
        return 1
    finally:
        # The process ends now: to look through all objects of the networks' libraries for garbage takes a second.
        gc.freeze()
    return 0


class _Life:
    """One server from loading to its end."""

    def __init__(self, name: str, settings: ServerSettings, telemetry: Telemetry, *, public: bool) -> None:
        self.name = name
        self.settings = settings
        self.telemetry = telemetry
        self.options = (*SERVER_OPTIONS, *(_PUBLIC_OPTIONS if public else ()), *_connection_options(settings))
        self.calls = ErrorInterceptor(telemetry, max_request_bytes=MAX_MESSAGE_BYTES)
        self.tls: ServerTls | None = None
        self.health = health.aio.HealthServicer()
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.draining = False
        self.log = structlog.get_logger()

    async def live(self, build: Build) -> None:
        """Loads, serves, drains and frees; cancelled by a signal that comes while it loads."""
        starting = asyncio.current_task()
        assert starting is not None
        _on_signals(starting.cancel)
        _check_free(self.settings.host, self.settings.port)
        self.tls = self._open_tls()
        async with AsyncExitStack() as stack:
            await self._report(ready=False, alive=True)
            health_port = await self._health_listener(stack)
            service = await stack.enter_async_context(_expected(build(self.telemetry)))
            server, port = self._listener(service)
            await server.start()
            stack.push_async_callback(self._stop, server, None)
            _on_signals(self._signalled)
            self._announce(service, port, health_port)
            async with asyncio.TaskGroup() as tasks:
                watches = [tasks.create_task(self._watch(service))]
                if self.tls is not None:
                    watches.append(tasks.create_task(self.tls.watch()))
                await self.stop.wait()
                await self._end(service, server)
                for watch in watches:
                    watch.cancel()
        self.log.info("stopped")

    def _open_tls(self) -> ServerTls | None:
        try:
            return ServerTls.of(self.settings.tls, self.telemetry)
        except ValueError as error:
            raise StartError(f"server.tls: {error}") from None

    def _listener(self, service: Service) -> tuple[grpc.aio.Server, int]:
        names = self.settings.tls.allowed_names
        peers = [PeerNames(names)] if names else []
        server = grpc.aio.server(
            interceptors=[self.calls, *peers, StreamLimit(), *service.interceptors], options=self.options
        )
        service.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if self.settings.reflection:
            services = (*service.grpc_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(services, server)
        return server, _bind(server, self.settings.host, self.settings.port, self.tls)

    async def _health_listener(self, stack: AsyncExitStack) -> int | None:
        """Opens the port for health alone, plain text in any case, which answers while the service loads."""
        if self.settings.health_port is None:
            return None
        host = self.settings.health_host or self.settings.host
        _check_free(host, self.settings.health_port)
        server = grpc.aio.server(interceptors=[ErrorInterceptor(), StreamLimit()], options=self.options)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        port = _bind(server, host, self.settings.health_port)
        await server.start()
        stack.push_async_callback(server.stop, None)
        return port

    def _announce(self, service: Service, port: int, health_port: int | None) -> None:
        ports = {"port": port, "health_port": health_port, "prometheus_port": self.telemetry.prometheus_port}
        listening = {"host": self.settings.host, **{key: value for key, value in ports.items() if value is not None}}
        self.log.info("listening", **listening, **service.loaded)
        line = {"event": "listening", "service": self.name, "pid": os.getpid(), **listening}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    async def _watch(self, service: Service) -> None:
        """Keeps the health service's answers true."""
        while True:
            await self._report(ready=service.ready() and not self.draining, alive=service.alive())
            await asyncio.sleep(_HEALTH_PERIOD_S)

    async def _report(self, *, ready: bool, alive: bool) -> None:
        for name, well in {"startup": True, "readiness": ready, "liveness": alive, "": ready}.items():
            await self.health.set(name, _SERVING if well else _NOT_SERVING)

    async def _end(self, service: Service, server: grpc.aio.Server) -> None:
        """Refuses new work, lets the running work end within the grace, closes the port."""
        self.draining = True
        await self._report(ready=False, alive=service.alive())
        self.log.info("draining", seconds=self.settings.drain_seconds)
        drain, hurry = asyncio.create_task(service.drain()), asyncio.create_task(self.hurry.wait())
        done, late = await asyncio.wait(
            {drain, hurry}, timeout=self.settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_WORDS_S)
        if drain in done:
            drain.result()
        else:
            self.log.warning("drain cut short")
        stopping = asyncio.create_task(server.stop(_LAST_WORDS_S + _HANDLERS_END_S))
        if not await self.calls.wait_idle(_LAST_WORDS_S):
            self.calls.end_all(draining(f"{self.name} has ended"))
        await stopping
        await self._stop(server, None)

    async def _stop(self, server: grpc.aio.Server, grace_s: float | None) -> None:
        """Closes the port, ends all calls after the grace and waits until their handlers have let go.  Idempotent."""
        await server.stop(grace_s)
        if not await self.calls.wait_idle(_HANDLERS_END_S):
            self.log.warning("calls have not ended", seconds=_HANDLERS_END_S)

    def _signalled(self) -> None:
        if self.stop.is_set():
            self.hurry.set()
        self.stop.set()


def _connection_options(settings: ServerSettings) -> tuple[tuple[str, int], ...]:
    """Bounds on connections from which no call has come yet; gRPC's own are none and two minutes."""
    return (
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", round(settings.handshake_seconds * 1_000)),
    )


@contextmanager
def _telemetry(settings: TelemetrySettings, name: str) -> Iterator[Telemetry]:
    try:
        telemetry = Telemetry.start(settings, name)
    except OSError as error:
        port = settings.prometheus_port
        raise StartError(
            f"cannot listen on {settings.prometheus_host}:{port} for Prometheus: {error.strerror}"
        ) from None
    with telemetry:
        yield telemetry


@asynccontextmanager
async def _expected(loading: AbstractAsyncContextManager[Service]) -> AsyncIterator[Service]:
    """``loading``, with an operator's fault on its entry as ``StartError``."""
    async with AsyncExitStack() as stack:
        try:
            service = await stack.enter_async_context(loading)
        except (OSError, ValueError) as error:
            raise StartError(" ".join(str(error).split())) from error
        yield service


def _check_free(host: str, port: int) -> None:
    """Tries a port before anything is loaded: a clear reason, and at once.

    Raises:
        StartError: nobody can listen there now.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _bind(server: grpc.aio.Server, host: str, port: int, tls: ServerTls | None = None) -> int:
    """Listens on ``host``; returns the port, which is a free one for 0."""
    address = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        if tls is not None:
            return server.add_secure_port(f"{address}:{port}", tls.credentials())
        return server.add_insecure_port(f"{address}:{port}")
    except RuntimeError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error}") from None


def _on_signals(callback: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, callback)
