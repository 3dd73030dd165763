"""The calling half of a long-lived stream: one connection from its opening to its end, and a new one after each end.

Knows hello, heartbeats, silence and back-off; knows nothing of what requests and responses mean.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NoReturn, TypeAlias, TypeVar, cast

import grpc
import structlog

from live_avatar.serving.cancellation import CutShortError, endless
from live_avatar.serving.errors import STAGE_LOST, ServiceError, calling, from_rpc_error, stage_lost
from live_avatar.serving.streams.backoff import Backoff
from live_avatar.serving.streams.mailbox import Mailbox
from live_avatar.serving.timing import CHANNEL_OPTIONS, HopTiming
from live_avatar.serving.tls import ClientTls, open_channel

QUEUE_SIZE = 64

Request = TypeVar("Request")
Response = TypeVar("Response")
Log: TypeAlias = "structlog.typing.FilteringBoundLogger"


class Connection(Generic[Request, Response]):
    """A stream that is started once, run once and closed once; all calls from one event loop.

    Args:
        target: address of the peer.
        peer: name of the peer in what people read: addresses are for the log.
        heartbeat: what is sent again and again while the stream stands.
        timing: waits.
        tls: of the connection; None: plain text.
    """

    def __init__(
        self, target: str, peer: str, heartbeat: Request, timing: HopTiming, tls: ClientTls | None = None
    ) -> None:
        self.peer = peer
        self.channel = open_channel(target, tls, CHANNEL_OPTIONS)
        self.outbox: Mailbox[Request] = Mailbox(QUEUE_SIZE)
        self._heartbeat = heartbeat
        self._timing = timing
        self._call: grpc.aio.StreamStreamCall[Request, Response] | None = None

    def start(self, call: grpc.aio.StreamStreamCall[Request, Response]) -> None:
        """Takes a call that was just made on ``channel`` as the stream."""
        self._call = call

    async def handshake(self, hello: Request) -> Response:
        """Sends the first request and waits for the first response; raises ServiceError."""
        try:
            async with asyncio.timeout(self._timing.connect_s):
                with calling(self.peer):
                    await self._started.write(hello)
                    return await self._read()
        except TimeoutError:
            raise stage_lost(f"{self.peer} gave no welcome within {self._timing.connect_s} s") from None

    async def run(self, receive: Callable[[Response], Awaitable[None]]) -> NoReturn:
        """Lives until the stream breaks, which raises ServiceError; never returns otherwise."""
        try:
            await endless(self._write_all(), self._heartbeats(), self._read_all(receive))
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError, CutShortError) as error:
            raise await self._reason(error) from error

    async def close(self) -> None:
        """Ends the stream and wakes all who wait to send; to be called once."""
        self.outbox.close()
        if self._call is not None:
            self._call.cancel()
        try:
            await self.channel.close()
        finally:
            # The traceback of an error may hold this object until the next garbage collection; the socket, which ends
            # with the last of these two, must not wait for that.
            del self._call, self.channel

    @property
    def _started(self) -> grpc.aio.StreamStreamCall[Request, Response]:
        assert self._call is not None, "a stream runs after its start"
        return self._call

    async def _write_all(self) -> None:
        while True:
            await self._started.write(await self.outbox.get())

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._timing.heartbeat_s)
            await self.outbox.put(self._heartbeat)

    async def _read_all(self, receive: Callable[[Response], Awaitable[None]]) -> None:
        while True:
            try:
                async with asyncio.timeout(self._timing.silence_s):
                    response = await self._read()
            except TimeoutError:
                raise stage_lost(f"{self.peer} said nothing for {self._timing.silence_s} s") from None
            await receive(response)

    async def _read(self) -> Response:
        response = await self._started.read()
        if response is grpc.aio.EOF:
            raise await self._reason(None)
        return cast(Response, response)

    async def _reason(self, error: BaseException | None) -> ServiceError:
        """Why the stream ended: what the server's status says, which only the call knows."""
        if isinstance(error, grpc.aio.AioRpcError):
            return from_rpc_error(error, self.peer)
        call = self._started
        try:
            async with asyncio.timeout(self._timing.heartbeat_s):
                code, details = await call.code(), await call.details()
                initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        except TimeoutError:
            return stage_lost(f"{self.peer} ended the stream without a status")
        if code is grpc.StatusCode.OK:
            return stage_lost(f"{self.peer} ended the stream")
        return from_rpc_error(grpc.aio.AioRpcError(code, initial, trailing, details), self.peer)


async def keep_up(
    open_connection: Callable[[], Connection[Request, Response]],
    use: Callable[[Connection[Request, Response]], Awaitable[NoReturn]],
    timing: HopTiming,
    log: Log,
) -> NoReturn:
    """Opens a connection, and after a pause another one whenever it ended, until cancelled.

    Args:
        open_connection: makes a connection that is not started.
        use: starts and runs it until it ends, which raises ServiceError.
        timing: waits.
        log: where each end is reported.
    """
    backoff = Backoff(timing.backoff_min_s, timing.backoff_max_s)
    while True:
        began = time.monotonic()
        error = await _use_once(open_connection(), use)
        log.warning("stream down", reason=error.reason, error=error.message, detail=error.detail)
        if time.monotonic() - began > 2 * timing.silence_s:
            backoff.reset()
        await asyncio.sleep(backoff.next_s())


def as_lost(error: ServiceError) -> ServiceError:
    """What the end of a stream means for the sessions on it."""
    return error if error.reason == STAGE_LOST else stage_lost(error.message, error.detail)


async def _use_once(
    connection: Connection[Request, Response], use: Callable[[Connection[Request, Response]], Awaitable[NoReturn]]
) -> ServiceError:
    try:
        await use(connection)
    except ServiceError as error:
        return as_lost(error)
    finally:
        await connection.close()
