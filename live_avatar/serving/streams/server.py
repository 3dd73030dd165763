"""The answering half of a long-lived stream, from its first request to its end.

Knows the outbox, heartbeats and silence; knows nothing of what requests and responses mean.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import grpc

from live_avatar.serving.cancellation import first_cause
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.timing import HopTiming

Request = TypeVar("Request")
Response = TypeVar("Response")
Out = TypeVar("Out", covariant=True)


class Outbox(Protocol[Out]):
    """Where responses wait to be written."""

    async def next(self, timeout_s: float) -> Out | None:
        """The next response; None where there is none for ``timeout_s``."""


class ServerStream(Generic[Request, Response]):
    """One stream; all calls from one event loop.

    Args:
        context: of the call.
        outbox: what is written, in order.
        heartbeat: makes what is written every ``heartbeat_s`` besides, once nothing else waits.
        timing: waits.
        lost: the error of a peer that is lost, from the reason in words.
    """

    def __init__(
        self,
        context: "grpc.aio.ServicerContext[Request, Response]",
        outbox: Outbox[Response],
        heartbeat: Callable[[], Response],
        timing: HopTiming,
        lost: Callable[[str], ServiceError],
    ) -> None:
        self._context = context
        self._outbox = outbox
        self._heartbeat = heartbeat
        self._timing = timing
        self._lost = lost
        self._failure: asyncio.Future[ServiceError] = asyncio.get_running_loop().create_future()
        self._writing: asyncio.Task[None] | None = None

    async def read(self) -> Request | None:
        """The next request; None at the end of the stream."""
        request = await self._context.read()
        return None if request is grpc.aio.EOF else request

    async def run(self, receive: Callable[[Request], Awaitable[None]]) -> None:
        """Reads, writes and sends heartbeats until the peer ends the stream.

        Raises:
            ServiceError: the peer is silent, does not read, or errs.
            grpc.aio.BaseError: the stream broke.
        """
        cause: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._write_all()), tasks.create_task(self._watch_failure())]
                await self._read_all(receive)
                for other in others:
                    other.cancel()
        except* ServiceError as group:
            cause = first_cause(group)
        except* grpc.aio.BaseError as group:
            cause = cause or first_cause(group)
        await self._flush()
        if cause is not None:
            raise cause

    def fail(self, error: ServiceError) -> None:
        """Ends the stream with an error.  Idempotent: the first one counts."""
        if not self._failure.done():
            self._failure.set_result(error)

    async def _read_all(self, receive: Callable[[Request], Awaitable[None]]) -> None:
        while True:
            # Silence counts only while this side listens: while its queue is full it receives nothing from the peer.
            try:
                async with asyncio.timeout(self._timing.silence_s):
                    request = await self.read()
            except TimeoutError:
                raise self._lost(f"said nothing for {self._timing.silence_s} s") from None
            if request is None:
                return
            await receive(request)

    async def _write_all(self) -> None:
        time = asyncio.get_running_loop().time
        due = time() + self._timing.heartbeat_s
        while True:
            response = await self._outbox.next(due - time())
            if response is None:
                response, due = self._heartbeat(), time() + self._timing.heartbeat_s
            self._writing = asyncio.create_task(self._write(response))
            self._writing.add_done_callback(_note_end)
            await asyncio.shield(self._writing)

    async def _write(self, response: Response) -> None:
        await self._context.write(response)

    async def _flush(self) -> None:
        """Waits for the write under way, since gRPC takes no status before that is done."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=self._timing.heartbeat_s)

    async def _watch_failure(self) -> None:
        raise await self._failure


def _note_end(write: asyncio.Task[None]) -> None:
    """Takes note of how a write ended that nobody may wait for any more, because its stream is over."""
    if not write.cancelled():
        write.exception()
