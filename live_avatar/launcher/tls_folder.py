"""A folder with the certificates of one installation, and the flags that make services use them.

``ca.crt``: the authority that everybody trusts.  ``tls.crt`` and ``tls.key``: certificate and key of all services of
the installation.  ``ca.key``: the authority's secret, where it is our own; services never read it.  The names are those
of Kubernetes' Secrets for TLS, so that one of them can be mounted as such a folder.
"""

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from live_avatar.launcher.own_authority import OwnAuthority
from live_avatar.serving.certificate_files import read_authorities, read_identity

AUTHORITY, CERTIFICATE, KEY, AUTHORITY_KEY = "ca.crt", "tls.crt", "tls.key", "ca.key"
AUTHORITY_DAYS = 3650
_NAME = re.compile(r"[A-Za-z0-9*:]([A-Za-z0-9._:-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True)
class TlsFolder:
    """Files that can be used now, by services at both ends of a connection."""

    folder: Path
    name: str
    """One that the certificate has: every service shows it and demands it of the others."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The certificates in ``folder``.

        Raises:
            ValueError: a file is missing or cannot be used; the message says what is needed.
        """
        missing = [name for name in (AUTHORITY, CERTIFICATE, KEY) if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"--tls {folder}: {', '.join(missing)} missing; the folder holds {AUTHORITY}, {CERTIFICATE} and {KEY}, "
                f"and live-avatar certificates {folder} makes them"
            )
        read_authorities(folder / AUTHORITY)
        names = read_identity(folder / CERTIFICATE, folder / KEY, "server").names
        read_identity(folder / CERTIFICATE, folder / KEY, "client")
        if not names:
            raise ValueError(f"--tls {folder / CERTIFICATE}: the certificate has no subject alternative name")
        return cls(folder.absolute(), names[0])

    def server_flags(self, *, mutual: bool) -> Sequence[str]:
        """Of a service that shows the certificate, and where ``mutual`` demands it of its clients."""
        own = self._pair("--server.tls.")
        if not mutual:
            return own
        return (*own, "--server.tls.client-ca", str(self.authority), "--server.tls.allowed-names", self.name)

    @property
    def client_flags(self) -> Sequence[str]:
        """Of a service that calls others of the installation."""
        return (*self._pair("--tls."), "--tls.ca", str(self.authority), "--tls.server-name", self.name)

    @property
    def authority(self) -> Path:
        """The file that clients need."""
        return self.folder / AUTHORITY

    def _pair(self, prefix: str) -> Sequence[str]:
        certificate, key = self.folder / CERTIFICATE, self.folder / KEY
        return (f"{prefix}certificate", str(certificate), f"{prefix}key", str(key))


def make_certificates(folder: Path, names: Sequence[str], days: int) -> bool:
    """Writes a certificate for ``names`` by the folder's own authority, which is made where there is none.

    Args:
        folder: is made; what ``TlsFolder`` reads and the authority's key are there afterwards.
        names: host names and addresses at which the gateway is reached.
        days: for which the certificate is valid.

    Returns:
        Whether the authority is new.

    Raises:
        ValueError: a name is none, or the folder holds an authority without its key.
        OSError: the folder cannot be written.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"--name {name!r} is neither a host name nor an address")
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not (folder / AUTHORITY).exists()
    if is_new:
        authority = OwnAuthority.make(max(days, AUTHORITY_DAYS))
        _write(folder / AUTHORITY_KEY, authority.key_pem, secret=True)
        _write(folder / AUTHORITY, authority.certificate_pem)
    else:
        authority = _read_authority(folder)
    certificate, key = authority.issue(names, timedelta(days=days))
    _write(folder / KEY, key, secret=True)
    _write(folder / CERTIFICATE, certificate)
    return is_new


def _read_authority(folder: Path) -> OwnAuthority:
    try:
        return OwnAuthority.read((folder / AUTHORITY).read_bytes(), (folder / AUTHORITY_KEY).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder / AUTHORITY} is there, and {folder / AUTHORITY_KEY} is not its key: {error}; "
            "take another folder, or ask that authority for a certificate"
        ) from None


def _write(file: Path, data: bytes, *, secret: bool = False) -> None:
    """Replaces a file as a whole: a service may read it at this moment."""
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "wb") as stream:
        stream.write(data)
    fresh.replace(file)
