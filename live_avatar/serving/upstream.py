"""Blocks over the answering half of a stream: what comes from one upstream neighbour, and what goes back to it.

Knows hello and credits; ``hop.py`` knows what the other messages mean.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest, StreamBlocksResponse
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.streams.mailbox import Mailbox
from live_avatar.serving.streams.server import ServerStream
from live_avatar.serving.timing import SERVED_VERSIONS, HopTiming

# Answers that may wait for a neighbour that does not read; beyond that it is lost.
MAX_ANSWERS = 8192

Context: TypeAlias = "grpc.aio.ServicerContext[StreamBlocksRequest, StreamBlocksResponse]"


class Upstream:
    """One stream from its hello to its end; all calls from one event loop."""

    def __init__(
        self, context: Context, heartbeat: Callable[[], StreamBlocksResponse], block_credits: int, timing: HopTiming
    ) -> None:
        self.peer = ""
        self.version = 0
        """Of the protocol, as the peer speaks it."""
        self._credits = block_credits
        self._timing = timing
        self._outbox: Mailbox[StreamBlocksResponse] = Mailbox(MAX_ANSWERS)
        self._stream = ServerStream(context, self._outbox, heartbeat, timing, self._lost)

    async def handshake(self, model_digest: str) -> None:
        """Waits for Hello; raises ServiceError where the peer does not fit."""
        try:
            async with asyncio.timeout(self._timing.connect_s):
                request = await self._stream.read()
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
        self.peer, self.version = hello.peer, hello.protocol_version

    async def run(self, receive: Callable[[StreamBlocksRequest], Awaitable[None]]) -> None:
        """See ``ServerStream.run``."""
        await self._stream.run(receive)

    def reply(self, response: StreamBlocksResponse) -> None:
        """Sends a response in order, never waiting; nothing happens when the stream is gone."""
        if self._outbox.closed:
            return
        if len(self._outbox) >= MAX_ANSWERS:
            self._stream.fail(self._lost(f"left {MAX_ANSWERS} answers unread"))
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
        self._outbox.close()

    def _lost(self, why: str) -> ServiceError:
        return ServiceError(grpc.StatusCode.UNAVAILABLE, "PEER_LOST", f"{self.peer or 'the peer'}: {why}")
