"""Certificates of an installation, as files that are replaced the way Kubernetes replaces those of a Secret."""

import asyncio
import functools
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec

import grpc
from cryptography import x509

from live_avatar.launcher.own_authority import OwnAuthority
from live_avatar.serving.settings import ClientTlsSettings, ServerTlsSettings

DAY = timedelta(days=1)
OURS, FOREIGN = OwnAuthority.make(30), OwnAuthority.make(30)
GATEWAY, PIPELINE = "gateway.live-avatar", "pipeline.live-avatar"


P = ParamSpec("P")


def in_event_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine, as a function."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Files:
    """``tls.crt``, ``tls.key`` and ``ca.crt`` in a folder, each a link through ``..data``, as in a mounted Secret."""

    def __init__(self, folder: Path, names: Sequence[str], *, by: OwnAuthority = OURS, valid: timedelta = DAY) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir()
        self.replace(names, by=by, valid=valid)
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (folder / name).symlink_to(Path("..data") / name)

    def replace(self, names: Sequence[str], *, by: OwnAuthority = OURS, valid: timedelta = DAY) -> int:
        """Another certificate in one step; its serial number."""
        certificate, key = by.issue(names, valid)
        self.write(certificate, key)
        return x509.load_pem_x509_certificate(certificate).serial_number

    def write(self, certificate: bytes, key: bytes) -> None:
        """Other files in one step."""
        self._versions += 1
        data = self.folder / f"..{self._versions}"
        data.mkdir()
        (data / "tls.crt").write_bytes(certificate)
        (data / "tls.key").write_bytes(key)
        (data / "ca.crt").write_bytes(OURS.certificate_pem)
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(data.name)
        fresh.replace(self.folder / "..data")

    def server(self, *, mutual: bool = False, allowed: Sequence[str] = ()) -> ServerTlsSettings:
        """Settings of a server with this certificate."""
        return ServerTlsSettings(
            certificate=self.folder / "tls.crt",
            key=self.folder / "tls.key",
            client_ca=self.folder / "ca.crt" if mutual else None,
            allowed_names=tuple(allowed),
        )

    def client(self, server_name: str = PIPELINE) -> ClientTlsSettings:
        """Settings of a client with this certificate."""
        return ClientTlsSettings(
            ca=self.folder / "ca.crt",
            certificate=self.folder / "tls.crt",
            key=self.folder / "tls.key",
            server_name=server_name,
        )


def stranger(ca: OwnAuthority = OURS) -> grpc.ChannelCredentials:
    """Credentials without a certificate of the client."""
    return grpc.ssl_channel_credentials(ca.certificate_pem)


def handshake(port: int, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[str | None, int]:
    """Version and serial number of the certificate that a server shows; raises OSError where it refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else it would be our side that refuses an old version
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if most >= ssl.TLSVersion.TLSv1_2 else most
    context.maximum_version = most
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line, context.wrap_socket(line) as secure:
        shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return secure.version(), x509.load_der_x509_certificate(shown).serial_number
