"""The port on which other gateways call this one.

Knows servers and certificates; what is served is up to its caller.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc

from live_avatar.services.gateway.relay.settings import RelaySettings
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.peer_names import PeerNames
from live_avatar.serving.server import SERVER_OPTIONS
from live_avatar.serving.stream_limit import StreamLimit
from live_avatar.serving.telemetry import Telemetry
from live_avatar.serving.tls import ServerTls

_HANDLERS_END_S = 5.0


class RelayListener:
    """A port that is bound, and serves within ``serving``.

    Args:
        settings: where it is.
        telemetry: of this gateway.
        interceptors: of the calls.

    Raises:
        ValueError: the certificate cannot be used.
        OSError: the port is taken.
    """

    def __init__(
        self, settings: RelaySettings, telemetry: Telemetry, interceptors: Sequence[grpc.aio.ServerInterceptor]
    ) -> None:
        names = settings.tls.allowed_names
        peers = [PeerNames(names)] if names else []
        self._calls = ErrorInterceptor(telemetry)
        self._tls = ServerTls.of(settings.tls, telemetry)
        self._server = grpc.aio.server(
            interceptors=[self._calls, *peers, StreamLimit(), *interceptors], options=SERVER_OPTIONS
        )
        port = self._bind(f"{settings.host}:{settings.port}")
        self.address = settings.address or f"{settings.host}:{port}"
        """At which other gateways reach it."""

    def _bind(self, address: str) -> int:
        try:
            if self._tls is not None:
                return self._server.add_secure_port(address, self._tls.credentials())
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address} for other gateways: {error}") from None

    @asynccontextmanager
    async def serving(self, register: Callable[[grpc.aio.Server], None]) -> AsyncIterator[None]:
        """Serves what ``register`` adds, within the body."""
        register(self._server)
        await self._server.start()
        watching = [asyncio.create_task(self._tls.watch())] if self._tls is not None else []
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await self._server.stop(None)
            await self._calls.wait_idle(_HANDLERS_END_S)
