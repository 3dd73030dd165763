"""A channel to a gateway: options, TLS, and the API key that goes with every call.

Knows addresses and credentials; nothing of calls.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from live_avatar.client.target import parse_target
from live_avatar.proxies import direct_if_local, is_local

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest response that is taken: a raw picture of any size the server makes."""
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),  # the server's limit holds
    # A gateway that is frozen is noticed after 8 s at most: its kernel goes on to take what is sent.
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A stream that broke is resumed at once; gRPC's own first pause is a second, its longest two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_MAX_KEY_CHARACTERS = 8_192

ApiKeySource: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""An API key or token, or what returns the current one; it is called before every call."""


def open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, api_key: ApiKeySource | None, *, insecure: bool = False
) -> tuple[str, grpc.aio.Channel]:
    """A channel and its address.

    Args:
        target: address as host:port; see ``parse_target`` for what else is taken.
        credentials: for TLS; None: plain text.
        api_key: sent with every call but streams, which have a session token; None: none.
        insecure: send ``api_key`` in plain text to other machines too.

    Raises:
        ValueError: ``target`` is no address, ``api_key`` is none, or it would cross a network in plain text.
    """
    address = parse_target(target, encrypted=credentials is not None)
    check_plain_text(address, credentials, api_key, insecure=insecure)
    options = (*_CHANNEL_OPTIONS, *direct_if_local(address))
    interceptors = [] if api_key is None else [_Bearer(api_key)]
    if credentials is None:
        return address, grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    return address, grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


def check_plain_text(
    address: str, credentials: grpc.ChannelCredentials | None, api_key: ApiKeySource | None, *, insecure: bool
) -> None:
    """Raises ValueError where an API key is malformed or would leave this machine in plain text."""
    if isinstance(api_key, str):
        _check_form(api_key)
    if api_key is None or credentials is not None or insecure or is_local(address):
        return
    raise ValueError(f"gateway {address}: the API key would cross the network in plain text; use TLS, or allow it")


def _check_form(api_key: str) -> str:
    """``api_key``; raises ValueError, which does not repeat it, where no metadata can hold it."""
    if not api_key or len(api_key) > _MAX_KEY_CHARACTERS or not (api_key.isascii() and api_key.isprintable()):
        raise ValueError(f"an API key has 1 to {_MAX_KEY_CHARACTERS} printable ASCII characters")
    if " " in api_key:
        raise ValueError("an API key contains no space")
    return api_key


class _Bearer(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds the key to every call with one request and one response."""

    def __init__(self, api_key: ApiKeySource) -> None:
        self._api_key = api_key

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Sends the call with the current key."""
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
        metadata.add("authorization", f"Bearer {await self._current()}")
        details = grpc.aio.ClientCallDetails(
            client_call_details.method,
            client_call_details.timeout,
            metadata,
            client_call_details.credentials,
            client_call_details.wait_for_ready,
        )
        return await continuation(details, request)

    async def _current(self) -> str:
        if isinstance(self._api_key, str):
            return self._api_key
        current = self._api_key()
        return _check_form(await current if inspect.isawaitable(current) else current)
