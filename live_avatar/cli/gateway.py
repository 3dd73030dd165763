"""The gateway that a command talks to: where it is, how it is trusted, and the key for it.

Knows addresses and credentials; nothing of what is asked of it.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from live_avatar.cli.access import Access
from live_avatar.client import AdminClient, AvatarClient
from live_avatar.client.channel import check_plain_text
from live_avatar.client.target import asks_for_tls, parse_target


@dataclass(frozen=True)
class Gateway:
    """An address that is one, credentials where the line is encrypted, and the key that goes with every call."""

    address: str
    credentials: grpc.ChannelCredentials | None = None
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False

    def connect(self) -> AvatarClient:
        """A client of this gateway."""
        return AvatarClient(self.address, self.credentials, api_key=self.api_key, insecure=self.insecure)

    def administer(self) -> AdminClient:
        """A client of its admin calls."""
        return AdminClient(self.address, self.credentials, api_key=self.api_key, insecure=self.insecure)


def gateway_at(text: str, access: Access) -> Gateway:
    """The gateway that a user names.

    Args:
        text: its address; one with ``https://`` or ``grpcs://`` asks for TLS.
        access: an authority asks for TLS too.

    Raises:
        ValueError: the address is none, the file holds no certificate, or the key would cross a network in plain text.
        OSError: the file cannot be read.
    """
    # What gRPC itself logs of a line that fails would stand before our own one line about it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    encrypted = access.ca is not None or asks_for_tls(text)
    address = parse_target(text, encrypted=encrypted)
    credentials = grpc.ssl_channel_credentials(_authorities(access.ca)) if encrypted else None
    try:
        check_plain_text(address, credentials, access.api_key or None, insecure=access.insecure)
    except ValueError as error:
        raise ValueError(str(error).replace("or allow it", "or allow it with --insecure")) from None
    return Gateway(address, credentials, access.api_key or None, access.insecure)


def _authorities(file: Path | None) -> bytes | None:
    if file is None:
        return None
    data = file.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise ValueError(f"--ca {file} holds no certificate in PEM form")
    return data
