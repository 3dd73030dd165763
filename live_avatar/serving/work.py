"""What a service of the pipeline implements: the work on blocks, and nothing about streams.

Every method runs in the service's one device thread, one call at a time, in the order in which messages arrived; only
a ``Completion`` runs in the event loop.  A method that raises ``ServiceError`` (or anything else) ends that session
and no other; ``close`` follows.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.v1.avatar_service_pb2 import BlockTiming

# Hands a finished block over at the end of the chain, in the event loop; the block is acknowledged when it returns.
# It gets this service's timing of the block (queue, compute, hop) and may add ``encode_time`` to it.  Deliveries run
# one after the other; one is cancelled when its session ends or when the block's deadline passes.
Completion = Callable[[BlockTiming], Awaitable[None]]


class Work(Protocol):
    """Work of one service."""

    def open(self, request: StreamBlocksRequest.Open) -> int:
        """Reserves a session's memory; returns its bytes.  Raises ServiceError where there is no room."""

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        """Takes audio; returns what to pass on."""

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        """Takes one part of a conditioning; returns the parts to pass on, which may be none yet."""

    def block(self, block: StreamBlocksRequest.Block) -> Iterable[StreamBlocksRequest] | Completion:
        """Works on one block; returns the block to pass on or, at the end of the chain, its delivery.

        The hop itself fills in timings, trace context, budget and ``idle`` of the block it passes on.
        """

    def close(self, key: SessionKey) -> int:
        """Frees all of a session, if there is anything; returns the bytes freed.  Idempotent."""
