"""The gateway that a command talks to: where it is, and how it is trusted.

Knows addresses and credentials; nothing of what is asked of it.
"""

from dataclasses import dataclass
from pathlib import Path

import grpc

from live_avatar.client import AvatarClient
from live_avatar.client.target import asks_for_tls, parse_target


@dataclass(frozen=True)
class Gateway:
    """An address that is one, and credentials where the line is encrypted."""

    address: str
    credentials: grpc.ChannelCredentials | None = None

    def connect(self) -> AvatarClient:
        """A client of this gateway."""
        return AvatarClient(self.address, self.credentials)


def gateway_at(text: str, ca: Path | None) -> Gateway:
    """The gateway that a user names.

    Args:
        text: its address; one with ``https://`` or ``grpcs://`` asks for TLS.
        ca: file with the authority of its certificate, which asks for TLS too; None: the public ones.

    Raises:
        ValueError: the address is none, or the file holds no certificate.
        OSError: the file cannot be read.
    """
    encrypted = ca is not None or asks_for_tls(text)
    address = parse_target(text, encrypted=encrypted)
    return Gateway(address, grpc.ssl_channel_credentials(_authorities(ca)) if encrypted else None)


def _authorities(file: Path | None) -> bytes | None:
    if file is None:
        return None
    data = file.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise ValueError(f"--ca {file} holds no certificate in PEM form")
    return data
