"""TLS of a server and of the channels to other services, from files that may change meanwhile.

A server takes new files up at the next handshake, a client at its next connection; connections that stand go on.
Knows gRPC's credentials; nothing of what is sent.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

import grpc
import structlog

from live_avatar.serving.certificate_files import Identity, Side, WatchedFiles, read_authorities, read_identity
from live_avatar.serving.observer import Observer
from live_avatar.serving.settings import ClientTlsSettings, ServerTlsSettings

WATCH_PERIOD_S = 10.0
"""Between two looks at a server's files where nobody connects, so that the metric of their expiry stays true."""
Options = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class _Files:
    """What the files of one side hold."""

    identity: Identity | None
    authorities: bytes | None


class ServerTls:
    """The credentials of a server.

    Args:
        settings: with a certificate.
        observer: receives events of the certificate's expiry and about files that cannot be used.

    Raises:
        ValueError: the files cannot be used.
    """

    def __init__(self, settings: ServerTlsSettings, observer: Observer) -> None:
        self._mutual = settings.client_ca is not None
        self._files = _watched("server", settings.certificate, settings.key, settings.client_ca, observer)
        self._served: _Files | None = None

    @classmethod
    def of(cls, settings: ServerTlsSettings, observer: Observer) -> Self | None:
        """As the settings ask for; None: plain text."""
        return None if settings.certificate is None else cls(settings, observer)

    def credentials(self) -> grpc.ServerCredentials:
        """For ``add_secure_port``; TLS 1.2 and 1.3 are spoken."""
        self._served = self._files.current()
        first = _configuration(self._served)
        return grpc.dynamic_ssl_server_credentials(
            first,
            self._changed,  # type: ignore[arg-type]  # None for no change, says its documentation
            require_client_authentication=self._mutual,
        )

    async def watch(self) -> NoReturn:
        """Looks at the files now and then, also while nobody connects."""
        while True:
            await asyncio.sleep(WATCH_PERIOD_S)
            await asyncio.to_thread(self._files.current)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the next handshake uses; None: what the one before used.  Called by a thread of gRPC's."""
        files = self._files.current()
        if files is self._served:
            return None
        self._served = files
        return _configuration(files)


class ClientTls:
    """What channels to other services are made with.

    Args:
        settings: with authorities.
        observer: as that of ``ServerTls``.

    Raises:
        ValueError: the files cannot be used.
    """

    def __init__(self, settings: ClientTlsSettings, observer: Observer) -> None:
        self._name = settings.server_name
        self._files = _watched("client", settings.certificate, settings.key, settings.ca, observer)

    @classmethod
    def of(cls, settings: ClientTlsSettings, observer: Observer) -> Self | None:
        """As the settings ask for; None: plain text."""
        return None if settings.ca is None else cls(settings, observer)

    def channel(self, target: str, options: Options) -> grpc.aio.Channel:
        """A channel with the certificates of this moment."""
        files = self._files.current()
        identity = files.identity
        credentials = grpc.ssl_channel_credentials(
            files.authorities, identity.key if identity else None, identity.chain if identity else None
        )
        # Pods are reached by their addresses, which no certificate knows.
        name = (("grpc.ssl_target_name_override", self._name),) if self._name else ()
        return grpc.aio.secure_channel(target, credentials, options=(*options, *name))


def open_channel(target: str, tls: ClientTls | None, options: Options) -> grpc.aio.Channel:
    """A channel to a service: with ``tls``, or in plain text where that is None."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return tls.channel(target, options)


def _watched(
    side: Side, certificate: Path | None, key: Path | None, authorities: Path | None, observer: Observer
) -> WatchedFiles[_Files]:
    def read() -> _Files:
        return _Files(
            read_identity(certificate, key, side) if certificate is not None and key is not None else None,
            read_authorities(authorities) if authorities is not None else None,
        )

    def loaded(files: _Files) -> None:
        if files.identity is None:
            return
        observer.certificate_loaded(side, files.identity.expires.timestamp())
        structlog.get_logger(__name__).info(
            "certificate", side=side, names=list(files.identity.names), expires=files.identity.expires.isoformat()
        )

    files = [file for file in (certificate, key, authorities) if file is not None]
    return WatchedFiles(files, read, loaded=loaded, rejected=lambda: observer.certificate_rejected(side))


def _configuration(files: _Files) -> grpc.ServerCertificateConfiguration:
    assert files.identity is not None, "a server with TLS has a certificate"
    pair = (files.identity.key, files.identity.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=files.authorities)
