"""The server half of one stream: what comes from one upstream neighbour, and what goes back to it.

Knows hello, credits and heartbeats; ``hop.py`` knows what the messages mean.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest, StreamBlocksResponse
from live_avatar.serving.cancellation import first_cause
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.mailbox import Mailbox
from live_avatar.serving.timing import SERVED_VERSIONS, HopTiming

# Answers that may wait for a neighbour that does not read; beyond that it is lost.
MAX_ANSWERS = 8192

Context: TypeAlias = "grpc.aio.ServicerContext[StreamBlocksRequest, StreamBlocksResponse]"


class Upstream:
    """One stream from its hello to its end; all calls from one event loop."""

    def __init__(self, context: Context, block_credits: int, timing: HopTiming) -> None:
        self.peer = ""
        self._context = context
        self._credits = block_credits
        self._timing = timing
        self._outbox: Mailbox[StreamBlocksResponse] = Mailbox(MAX_ANSWERS)
        self._alive = True
        self._overflow = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    async def handshake(self, model_digest: str) -> None:
        """Waits for Hello; raises ServiceError where the peer does not fit."""
        try:
            async with asyncio.timeout(self._timing.connect_s):
                request = await self._read()
        except TimeoutError:
            raise ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "HELLO_MISSING", "no hello came") from None
        if request is None or request.WhichOneof("payload") != "hello":
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT, "HELLO_MISSING", "the first message must be hello", field="hello"
            )
        hello = request.hello
        if hello.protocol_version not in SERVED_VERSIONS:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "PROTOCOL_VERSION",
                f"protocol version {hello.protocol_version} is not served; {', '.join(map(str, SERVED_VERSIONS))} are",
            )
        if hello.expected_model_digest not in ("", model_digest):
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "MODEL_MISMATCH",
                f"the model is {model_digest!r}, not {hello.expected_model_digest!r}",
            )
        self.peer = hello.peer

    async def run(
        self,
        receive: Callable[[StreamBlocksRequest], Awaitable[None]],
        heartbeat: Callable[[], StreamBlocksResponse],
    ) -> None:
        """Reads, writes and beats until the peer ends the stream.

        Raises:
            ServiceError: the peer is silent, does not read, or errs.
            grpc.aio.BaseError: the stream broke.
        """
        cause: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(self._write_all()),
                    tasks.create_task(self._send_heartbeats(heartbeat)),
                    tasks.create_task(self._watch_overflow()),
                ]
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

    def reply(self, response: StreamBlocksResponse) -> None:
        """Sends a response in order, never waiting; nothing happens when the stream is gone."""
        if not self._alive:
            return
        if len(self._outbox) >= MAX_ANSWERS:
            self._overflow.set()
            return
        self._outbox.post(response)

    def take_credit(self) -> None:
        """Counts a block that came; raises ServiceError where the peer had no credit for it."""
        if self._credits == 0:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "CREDITS_EXCEEDED", f"{self.peer} sent a block without a credit"
            )
        self._credits -= 1

    def acknowledge(self, key: SessionKey, index: int) -> None:
        """Gives a block's credit back."""
        self._credits += 1
        self.reply(StreamBlocksResponse(ack=StreamBlocksResponse.Ack(key=key, index=index)))

    def close(self) -> None:
        """Drops what waits to be written.  Idempotent."""
        self._alive = False
        self._outbox.close()

    async def _read_all(self, receive: Callable[[StreamBlocksRequest], Awaitable[None]]) -> None:
        while True:
            # Silence counts only while this side listens: while its queue is full it receives nothing from the peer.
            try:
                async with asyncio.timeout(self._timing.silence_s):
                    request = await self._read()
            except TimeoutError:
                raise self._lost(f"said nothing for {self._timing.silence_s} s") from None
            if request is None:
                return
            await receive(request)

    async def _read(self) -> StreamBlocksRequest | None:
        """The next request; None at the end of the stream."""
        request: object = await self._context.read()
        return request if isinstance(request, StreamBlocksRequest) else None

    async def _write_all(self) -> None:
        while True:
            response = await self._outbox.get()
            self._writing = asyncio.create_task(self._write(response))
            self._writing.add_done_callback(_seen)
            await asyncio.shield(self._writing)

    async def _write(self, response: StreamBlocksResponse) -> None:
        await self._context.write(response)

    async def _flush(self) -> None:
        """Waits for the write under way, since gRPC takes no status before that is done."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=self._timing.heartbeat_s)

    async def _send_heartbeats(self, heartbeat: Callable[[], StreamBlocksResponse]) -> None:
        while True:
            await asyncio.sleep(self._timing.heartbeat_s)
            self.reply(heartbeat())

    async def _watch_overflow(self) -> None:
        await self._overflow.wait()
        raise self._lost(f"left {MAX_ANSWERS} answers unread")

    def _lost(self, why: str) -> ServiceError:
        return ServiceError(grpc.StatusCode.UNAVAILABLE, "PEER_LOST", f"{self.peer or 'the peer'}: {why}")


def _seen(write: asyncio.Task[None]) -> None:
    """Takes note of how a write ended that nobody may wait for any more, because its stream is over."""
    if not write.cancelled():
        write.exception()
