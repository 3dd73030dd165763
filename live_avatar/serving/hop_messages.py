"""Messages of a hop between its queues, and their timing.

Plain data and arithmetic: knows neither streams nor the work.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.observer import BlockReport
from live_avatar.serving.sessions import Session
from live_avatar.serving.work import Completion
from live_avatar.v1.avatar_service_pb2 import BlockTiming

# A longer hop says that the two clocks are not one.
MAX_HOP_NS = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Message:
    """A request that arrived for a session."""

    session: Session
    request: StreamBlocksRequest
    # Monotonic, of this process.
    arrived_at_ns: int

    def still_needed(self) -> bool:
        """Whether the message still has to be processed or sent on."""
        if self.request.HasField("block"):
            return self.session.wants_blocks
        return not self.session.closed


@dataclass(frozen=True, slots=True)
class CloseCommand:
    """Asks the worker to free a session's memory."""

    session: Session


@dataclass(frozen=True, slots=True)
class Result:
    """What the work made of a message, on its way out."""

    message: Message
    requests: Sequence[StreamBlocksRequest]
    # Of a block.
    timing: BlockTiming | None = None
    deliver: Completion | None = None


def begin(timing: BlockTiming, message: Message, now_ns: int) -> None:
    """Notes in its timing that a block's turn is now: its way here and its wait."""
    sent_at_ns, arrived_at_ns = message.request.block.sent_at_ns, message.arrived_at_ns
    timing.queue_time.FromNanoseconds(now_ns - arrived_at_ns)
    if 0 < sent_at_ns <= arrived_at_ns <= sent_at_ns + MAX_HOP_NS:
        timing.hop_time.FromNanoseconds(arrived_at_ns - sent_at_ns)


def check_budget(message: Message, now_ns: int) -> None:
    """Raises ServiceError BLOCK_DEADLINE where a block's time is over before work on it began."""
    block = message.request.block
    if block.HasField("budget") and block.budget.ToNanoseconds() <= now_ns - message.arrived_at_ns:
        raise too_late(f"block {block.index} had no time left when its turn came")


def too_late(message: str) -> ServiceError:
    """The error of a block that took too long."""
    return ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "BLOCK_DEADLINE", message)


def stamp(block: StreamBlocksRequest.Block, message: Message, timing: BlockTiming) -> None:
    """Fills in what every block carries on from service to service; ``block`` may be the one that came."""
    came = message.request.block
    timings = [*came.timings, timing]
    del block.timings[:]
    block.timings.extend(timings)
    block.traceparent = came.traceparent
    block.idle = came.idle
    if came.HasField("budget"):
        spent_ns = time.monotonic_ns() - message.arrived_at_ns
        block.budget.FromNanoseconds(max(came.budget.ToNanoseconds() - spent_ns, 0))


def report(result: Result, timing: BlockTiming, error: ServiceError | None) -> BlockReport:
    """The report of a block that leaves now."""
    block = result.message.request.block
    now_ns = time.time_ns()
    return BlockReport(
        service=timing.service,
        key=result.message.session.key,
        index=block.index,
        traceparent=block.traceparent,
        arrived_at_ns=now_ns - (time.monotonic_ns() - result.message.arrived_at_ns),
        sent_at_ns=now_ns,
        timing=timing,
        failure=error.reason if error else "",
    )
