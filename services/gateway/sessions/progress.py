"""What a session keeps of its blocks and of what clients asked of it.

Plain data; decides nothing.
"""

import asyncio
from dataclasses import dataclass, field
from enum import Enum

from opentelemetry.trace import Span

from live_avatar.pipeline.v1.blocks_pb2 import BlockTiming


class Phase(Enum):
    """Where a session stands."""

    RESERVED = "reserved"
    """Its memory is held; no client has opened the stream."""
    STREAMING = "streaming"
    OVER = "over"


@dataclass
class InFlight:
    """One block between admission and the arrival of its last picture."""

    span: Span
    admitted_at: float
    waited_s: float
    """For its turn to enter the pipeline."""
    idle: bool
    frames: list[bytes] = field(default_factory=list)
    first_frame: int = 0

    @property
    def size(self) -> int:
        """Bytes of the pictures that have come."""
        return sum(map(len, self.frames))


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """All pictures of one block."""

    first_frame: int
    frames: tuple[bytes, ...]
    timings: tuple[BlockTiming, ...]
    at: float
    waited_s: float
    idle: bool

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return sum(map(len, self.frames))


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """What a barge-in met."""

    played_ns: int
    """Media time up to which the client had played."""
    first_clean: int
    """First block without anything of what was interrupted."""


@dataclass(frozen=True)
class Update:
    """A new prompt on its way."""

    prompt: str
    applied: "asyncio.Future[int]"
    """First block it holds for."""
