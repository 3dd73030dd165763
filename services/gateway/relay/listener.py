"""The port on which other gateways call this one.

Knows servers and certificates; what is served is up to its caller.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import structlog

from live_avatar.limits import MAX_MESSAGE_BYTES
from live_avatar.services.gateway.access.settings import is_loopback
from live_avatar.services.gateway.relay.address import advertised, bracketed
from live_avatar.services.gateway.relay.settings import RelaySettings
from live_avatar.serving.errors import draining
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.peer_names import PeerNames
from live_avatar.serving.server import SERVER_OPTIONS
from live_avatar.serving.telemetry import Telemetry
from live_avatar.serving.tls import ServerTls

_HANDLERS_END_S = 5.0
_LAST_WORDS_S = 0.5
"""For calls that are about to end when the gateway does."""
_OPTIONS: tuple[tuple[str, int], ...] = (
    *SERVER_OPTIONS,
    # As on the port for clients: what is not read waits here as little as there.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
    ("grpc.max_metadata_size", 32 * 1024),
)


class RelayListener:
    """A port that is bound from the beginning, and serves within ``serving``.

    Args:
        settings: where it is.
        host: that is listened on.
        store_url: of the store that the gateways share.
        telemetry: of this gateway.
        interceptors: of the calls.

    Raises:
        ValueError: the certificate cannot be used.
        OSError: the port is taken, or no address leads to it.
    """

    def __init__(
        self,
        settings: RelaySettings,
        host: str,
        store_url: str,
        telemetry: Telemetry,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
    ) -> None:
        names = settings.tls.allowed_names
        peers = [PeerNames(names)] if names else []
        self._tls = ServerTls.of(settings.tls, telemetry)
        self._calls = ErrorInterceptor(telemetry, max_request_bytes=MAX_MESSAGE_BYTES)
        self._server = grpc.aio.server(interceptors=[self._calls, *peers, *interceptors], options=_OPTIONS)
        port = self._bind(bracketed(host), settings.port)
        self.address = advertised(settings.address, host, port, store_url)
        """At which other gateways reach it."""
        log = structlog.get_logger(__name__)
        log.info("listening for other gateways", host=host, port=port, address=self.address)
        if settings.tls.client_ca is None and not is_loopback(host):
            log.warning(
                "whoever reaches the port for other gateways may name any address as its caller's: let gateways"
                " alone reach it, or set relay.tls.client_ca"
            )

    def _bind(self, host: str, port: int) -> int:
        try:
            if self._tls is not None:
                return self._server.add_secure_port(f"{host}:{port}", self._tls.credentials())
            return self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port} for other gateways: {error}") from None

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
            stopping = asyncio.create_task(self._server.stop(_LAST_WORDS_S + _HANDLERS_END_S))
            if not await self._calls.wait_idle(_LAST_WORDS_S):
                self._calls.end_all(draining("this gateway has ended"))
            await stopping
