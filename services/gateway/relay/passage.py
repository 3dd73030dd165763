"""One call on its way through this gateway: messages are copied both ways, unread, as fast as either side takes them.

Knows gRPC's calls; nothing of what they say.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from live_avatar.late_writes import keep_last_word
from live_avatar.services.gateway.relay.failures import SESSION_MOVED, HolderLostError, SessionMovedError
from live_avatar.services.gateway.relay.metadata import ACCEPTED, Metadata
from live_avatar.services.gateway.sessions.lookup import gateway_lost
from live_avatar.services.gateway.waiting import ungrouped
from live_avatar.serving.errors import from_rpc_error, line_broke

_ENDED = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""In which gRPC says that a call is over; how, its status says."""


@dataclass(frozen=True, kw_only=True)
class PassedCall:
    """What is passed on."""

    method: str
    """In full, with its service."""
    metadata: Metadata
    first: bytes
    rest: AsyncIterator[bytes] | None
    """Messages after the first; None: there are none."""
    context: Any
    """Of the caller."""
    write: Callable[[bytes], Awaitable[None]]
    """Takes the responses."""
    accepted: Callable[[], None]
    """Called once the holder has the call."""
    left_s: float | None
    """Until the caller's deadline."""
    is_resumable: bool = False
    """The caller can go on with its stream at another gateway."""


class Passage:
    """The way of one call.

    Args:
        call: that is passed on.
        channel: to the holder.
    """

    def __init__(self, call: PassedCall, channel: grpc.aio.Channel) -> None:
        self._call = call
        self._is_answered = False
        self._way: Any = channel.stream_stream(call.method)(metadata=call.metadata, timeout=call.left_s)
        keep_last_word(self._way)

    async def run(self, timeout_s: float) -> None:
        """Returns when the call has ended well, and ends it as the holder does where that refuses.

        Args:
            timeout_s: in which the holder must accept the call.

        Raises:
            HolderLostError: it does not, or is lost before it has answered anything.
            SessionMovedError: it does not hold the session.
            ServiceError: it is lost later.
        """
        try:
            await self._open(timeout_s)
            await self._copy()
            await self._end()
        finally:
            self._way.cancel()

    async def _open(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._way.write(self._call.first)
                if self._call.rest is None:
                    await self._way.done_writing()
                initial = await self._way.initial_metadata()
        except TimeoutError:
            raise HolderLostError(f"it did not accept the call within {timeout_s} s") from None
        except _ENDED:
            return
        if any(key == ACCEPTED for key, _ in initial or ()):
            self._call.accepted()

    async def _copy(self) -> None:
        """Copies from the first response on; only then the holder reads further messages."""
        response = await self._read()
        if response is None:
            return
        self._is_answered = True
        async with ungrouped(), asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(self._send_rest())
            while response is not None:
                await self._call.write(response)
                response = await self._read()
            sending.cancel()

    async def _send_rest(self) -> None:
        if self._call.rest is None:
            return
        async for message in self._call.rest:
            try:
                await self._way.write(message)
            except _ENDED:
                return
        await self._way.done_writing()

    async def _read(self) -> bytes | None:
        """The next response; None where the status follows."""
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        try:
            response = await self._way.read()
        except _ENDED:
            return None
        except asyncio.CancelledError:
            # A channel that is closed cancels its calls; that is no cancellation of ours.
            if task is None or task.cancelling() > before:
                raise
            return None
        return response if isinstance(response, bytes) else None

    async def _end(self) -> None:
        """Ends the caller's call with the holder's status, as it is."""
        code, details = await self._way.code(), await self._way.details()
        trailing = tuple(await self._way.trailing_metadata() or ())
        if code is grpc.StatusCode.OK:
            if not self._is_answered:
                raise HolderLostError("it answered nothing")
            self._call.context.set_trailing_metadata(trailing)
            return
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)
        if line_broke(error):
            raise gateway_lost() if self._is_answered else HolderLostError(f"{code.name}: {details}")
        if from_rpc_error(error).reason == SESSION_MOVED:
            raise SessionMovedError
        await self._call.context.abort(code, details or "", trailing)
