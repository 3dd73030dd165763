"""Certificates and keys in PEM files, checked, and read again when the files change.

Knows X.509 and files; nothing of gRPC.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Literal, TypeVar

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

Side = Literal["server", "client"]
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
_MAX_FILE_BYTES = 4 * 1024 * 1024
"""A bundle of all public authorities has a quarter of a megabyte."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Identity:
    """A certificate with its chain and its key."""

    chain: bytes
    """PEM, the own certificate first."""
    key: bytes
    names: Sequence[str]
    """Those that the certificate is valid for: DNS names, addresses and URIs."""
    expires: datetime


def read_identity(certificate: Path, key: Path, side: Side) -> Identity:
    """A certificate and its key, good for use now.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with the private key, without a password.
        side: at which end of a connection it is to be used.

    Raises:
        ValueError: a file cannot be read, they do not belong together, or the certificate is not valid now or not for
            this side; the message names the file.
    """
    chain, secret = _read(certificate), _read(key)
    own = _certificates(certificate, chain)[0]
    try:
        private = serialization.load_pem_private_key(secret, None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key}: holds no private key that can be used: {_one_line(error)}") from None
    if private.public_key() != own.public_key():
        raise ValueError(f"{key}: is not the key of the certificate in {certificate}")
    _check_times(certificate, own)
    _check_usage(certificate, own, side)
    return Identity(chain, secret, names_of(own), own.not_valid_after_utc)


def read_authorities(file: Path) -> bytes:
    """The certificates of authorities as PEM; raises ValueError where the file holds none."""
    data = _read(file)
    _certificates(file, data)
    return data


def names_of(certificate: x509.Certificate) -> list[str]:
    """The subject alternative names of a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds = (x509.DNSName, x509.UniformResourceIdentifier)
    return [
        *(name for kind in kinds for name in names.get_values_for_type(kind)),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]


class WatchedFiles(Generic[_T]):
    """What ``read`` makes of some files; made anew when one of them has changed.

    New files that cannot be used change nothing: what was there before stays in use, and the log says why.  May be
    used from several threads.

    Args:
        files: that are watched, by their times, sizes and numbers: a link to another file counts as a change.
        read: reads them all; raises ValueError where they cannot be used.
        loaded: gets what was read, each time.
        rejected: called for each state of the files that cannot be used.

    Raises:
        ValueError: of ``read``.
    """

    def __init__(
        self,
        files: Sequence[Path],
        read: Callable[[], _T],
        *,
        loaded: Callable[[_T], None],
        rejected: Callable[[], None],
    ) -> None:
        self._files, self._read, self._loaded, self._rejected = files, read, loaded, rejected
        self._log = structlog.get_logger(__name__)
        self._seen = self._state()
        self._value = read()
        loaded(self._value)

    def current(self) -> _T:
        """What the files hold now, or what they held when they could last be used."""
        state = self._state()
        if state != self._seen:
            self._seen = state
            self._reload()
        return self._value

    def _reload(self) -> None:
        try:
            value = self._read()
        except ValueError as error:
            self._log.warning("new certificate files cannot be used, those before stay in use", reason=str(error))
            self._rejected()
            return
        self._value = value
        self._loaded(value)

    def _state(self) -> Sequence[tuple[int, ...] | None]:
        return [_state(file) for file in self._files]


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ValueError(f"{file}: has more than {_MAX_FILE_BYTES} bytes, which no file of certificates has")
    return data


def _certificates(file: Path, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ValueError(f"{file}: holds no certificate in PEM form: {_one_line(error)}") from None


def _check_times(file: Path, certificate: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        raise ValueError(f"{file}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if certificate.not_valid_before_utc > now:
        raise ValueError(
            f"{file}: the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on only"
        )


def _check_usage(file: Path, certificate: x509.Certificate, side: Side) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {_USAGES[side], ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        raise ValueError(f"{file}: the certificate is not for the {side} of a connection (extended key usage)")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
