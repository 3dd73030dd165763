"""Another gateway that holds a session: how it is called, and what becomes of a call that it does not answer.

Knows the public API as a client; nothing of sessions.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from live_avatar.services.gateway.relay.settings import RelaySettings
from live_avatar.serving.errors import ServiceError, from_rpc_error, line_broke
from live_avatar.serving.timing import CHANNEL_OPTIONS
from live_avatar.serving.tls import ClientTls, open_channel
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub

GATEWAY_LOST = "GATEWAY_LOST"
_MOST_CHANNELS = 256
"""To other gateways; the one that was used longest ago makes room."""
_PASSED_ON = ("authorization", "traceparent", "tracestate")
"""Metadata of a call that goes with it."""
_OPTIONS = (
    *CHANNEL_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
Answer = TypeVar("Answer", bound=Message)
Metadata = tuple[tuple[str, str], ...]


class HolderLostError(Exception):
    """The gateway that holds the session does not answer."""


def passed_on(metadata: Any) -> Metadata:
    """The part of a call's metadata that goes with it."""
    return tuple((key, value) for key, value in metadata or () if key in _PASSED_ON)


class Holders:
    """All other gateways; ``aclose`` ends the calls to them.

    Args:
        settings: how they are reached.
        tls: None: in plain text.
    """

    def __init__(self, settings: RelaySettings, tls: ClientTls | None) -> None:
        self._timeout_s = settings.timeout_seconds
        self._max_streams = settings.max_streams
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._streams = 0

    async def aclose(self) -> None:
        """Closes all channels."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    async def call(self, address: str, method: str, request: Message, metadata: Metadata) -> Any:
        """The answer of the gateway at ``address`` to a call with one request.

        Raises:
            HolderLostError: it does not answer in time, or is not there.
            ServiceError: as it refuses.
        """
        stub: Any = await self._stub(address)
        with _answering():
            return await getattr(stub, method)(request, metadata=metadata, timeout=self._timeout_s)

    async def stream(
        self,
        address: str,
        opening: api.StreamAvatarRequest,
        requests: AsyncIterator[api.StreamAvatarRequest],
        write: Callable[[api.StreamAvatarResponse], Awaitable[None]],
        metadata: Metadata,
    ) -> None:
        """Passes a stream on, both ways, until one side ends it.

        Args:
            address: of the gateway that holds the session.
            opening: first message of the stream.
            requests: those after it.
            write: takes the responses.
            metadata: see ``passed_on``.

        Raises:
            HolderLostError: it does not answer the opening; nothing was written.
            ServiceError: as it ends the stream, or GATEWAY_LOST where it is lost later.
        """
        stub: Any = await self._stub(address)
        with self._place():
            call = stub.StreamAvatar(metadata=metadata)
            try:
                first = await self._first(call, opening)
                await _pass_on(call, first, requests, write)
            finally:
                call.cancel()

    async def _first(self, call: Any, opening: api.StreamAvatarRequest) -> api.StreamAvatarResponse | None:
        """The answer to the opening; None where the stream ended well without one."""
        with _answering():
            async with asyncio.timeout(self._timeout_s):
                await call.write(opening)
                return await _read(call)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._streams >= self._max_streams:
            message = f"{self._max_streams} streams are passed on to other gateways already"
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise ServiceError(code, "TOO_MANY_STREAMS", message, retry_after_s=1.0)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def _stub(self, address: str) -> Any:
        channel = self._channels.pop(address, None) or open_channel(address, self._tls, _OPTIONS)
        self._channels[address] = channel
        if len(self._channels) > _MOST_CHANNELS:
            await self._channels.pop(next(iter(self._channels))).close()
        return AvatarServiceStub(channel)


async def _read(call: Any) -> api.StreamAvatarResponse | None:
    response = await call.read()
    if isinstance(response, api.StreamAvatarResponse):
        return response
    await call.code()
    return None


async def _pass_on(
    call: Any,
    first: api.StreamAvatarResponse | None,
    requests: AsyncIterator[api.StreamAvatarRequest],
    write: Callable[[api.StreamAvatarResponse], Awaitable[None]],
) -> None:
    """Copies messages both ways, from the first response on."""
    upwards = asyncio.create_task(_send_all(call, requests))
    try:
        response = first
        while response is not None:
            await write(response)
            with _lost_as_unavailable():
                response = await _read(call)
    finally:
        upwards.cancel()
        await asyncio.wait({upwards})


async def _send_all(call: Any, requests: AsyncIterator[api.StreamAvatarRequest]) -> None:
    """Copies the client's messages; how the call ends is for the reader of the responses to say."""
    try:
        async for request in requests:
            await call.write(request)
        await call.done_writing()
    except (grpc.aio.BaseError, asyncio.InvalidStateError):
        return


@contextmanager
def _answering() -> Iterator[None]:
    """Makes HolderLostError of everything that says that nobody answers."""
    try:
        yield
    except TimeoutError:
        raise HolderLostError("no answer in time") from None
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        if line_broke(error) or refusal.reason == grpc.StatusCode.DEADLINE_EXCEEDED.name:
            raise HolderLostError(error.details() or error.code().name) from error
        raise refusal from error
    except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
        raise HolderLostError(str(error)) from error


@contextmanager
def _lost_as_unavailable() -> Iterator[None]:
    """Makes GATEWAY_LOST of a line that breaks."""
    try:
        with _answering():
            yield
    except HolderLostError as error:
        raise gateway_lost() from error


def gateway_lost(retry_after_s: float = 1.0) -> ServiceError:
    """The answer where the gateway that holds the session is lost."""
    code = grpc.StatusCode.UNAVAILABLE
    message = "the gateway that holds the session does not answer"
    return ServiceError(code, GATEWAY_LOST, message, retry_after_s=retry_after_s)


def session_moved() -> ServiceError:
    """The answer to a call that was passed on to a gateway that does not hold the session any more."""
    code = grpc.StatusCode.UNAVAILABLE
    return ServiceError(code, "SESSION_MOVED", "the session is moving between gateways", retry_after_s=0.1)
