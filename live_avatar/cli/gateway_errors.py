"""What the gateway answers, as one line for a command."""

import contextlib
from collections.abc import Iterator

import grpc

from live_avatar.client.errors import AvatarError

_UNREACHABLE = "UNAVAILABLE"
"""Reason of an error that comes from no gateway."""


class GatewayFailedError(ConnectionError):
    """The gateway is not there or failed; its services' logs may say why."""


@contextlib.contextmanager
def clear_errors(gateway: str) -> Iterator[None]:
    """Turns what the gateway at ``gateway`` answers into one line.

    Raises:
        ValueError: it refused what was sent.
        GatewayFailedError: it is not there, or it failed.
    """
    try:
        yield
    except AvatarError as error:
        if error.reason == _UNREACHABLE:
            raise GatewayFailedError(f"no gateway answers at {gateway}: {error.message}") from None
        message = f"the gateway at {gateway} says {error}"
        if error.code is grpc.StatusCode.INVALID_ARGUMENT:
            raise ValueError(message) from None
        raise GatewayFailedError(message) from None
