"""Counts the blocks of one session, from admission by arrival to delivery.

The only writer of these counters.  Knows blocks and their bytes; nothing of pacing, speech or clients.
"""

import time
from dataclasses import dataclass, field

import grpc
from opentelemetry.trace import Span

from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.services.gateway.refusals import slow_consumer
from live_avatar.serving.errors import ServiceError
from live_avatar.v1.avatar_service_pb2 import BlockTiming


@dataclass(frozen=True, kw_only=True)
class ArrivedBlock:
    """A block whose frames have all come from the pipeline."""

    index: int
    first_frame: int
    frames: tuple[bytes, ...]
    timings: tuple[BlockTiming, ...]
    at: float
    """When the last frame came, by the monotonic clock in seconds."""
    waited_s: float
    """For its slot at the entrance of the pipeline."""
    idle: bool

    @property
    def size(self) -> int:
        """Bytes of all frames."""
        return sum(map(len, self.frames))


@dataclass
class BlockInFlight:
    """A block between admission and the arrival of its last frame."""

    index: int
    span: Span
    admitted_at: float
    waited_s: float
    idle: bool
    _frames: list[bytes] = field(default_factory=list)
    _first_frame: int = 0

    @property
    def size(self) -> int:
        """Bytes of the frames that have come."""
        return sum(map(len, self._frames))

    def add(self, video: StreamVideoResponse.Video) -> None:
        """Adds the next frames."""
        if not self._frames:
            self._first_frame = video.first_frame
        self._frames += video.frames

    def arrived(self, last: StreamVideoResponse.Video) -> ArrivedBlock:
        """The whole block, once ``last`` was added."""
        self.span.end()
        return ArrivedBlock(
            index=self.index,
            first_frame=self._first_frame,
            frames=tuple(self._frames),
            timings=tuple(last.timings),
            at=time.monotonic(),
            waited_s=self.waited_s,
            idle=self.idle,
        )


class BlockLedger:
    """The blocks of one session; indexes count from 0 without a gap."""

    def __init__(self) -> None:
        self._admitted = 0
        self._delivered = 0
        self._in_flight: dict[int, BlockInFlight] = {}
        self._arrived: dict[int, ArrivedBlock] = {}

    @property
    def admitted(self) -> int:
        """Blocks that entered the pipeline; also the index of the next one."""
        return self._admitted

    @property
    def delivered(self) -> int:
        """Blocks that the client has; also the index of the next one it gets."""
        return self._delivered

    @property
    def ahead(self) -> int:
        """Blocks that were admitted and not delivered."""
        return self._admitted - self._delivered

    @property
    def in_flight(self) -> int:
        """Blocks in the pipeline; they are the last that were admitted."""
        return len(self._in_flight)

    @property
    def is_in_flight(self) -> bool:
        """Some block is in the pipeline."""
        return bool(self._in_flight)

    @property
    def oldest_admitted_at(self) -> float | None:
        """When the block that is in the pipeline for longest was admitted; None where none is."""
        return min((block.admitted_at for block in self._in_flight.values()), default=None)

    @property
    def next_arrived(self) -> ArrivedBlock | None:
        """The next block to deliver; None where it has not come yet."""
        return self._arrived.get(self._delivered)

    @property
    def held_bytes(self) -> int:
        """Bytes of all frames that came and were not delivered."""
        return sum(self._sizes())

    def admit(self, span: Span, waited_s: float, *, idle: bool) -> None:
        """Counts the next block as admitted, now.

        Args:
            span: of its trace; ended with the block's arrival, or with the session.
            waited_s: for its slot.
            idle: it holds no sample of the client's.
        """
        index = self._admitted
        self._in_flight[index] = BlockInFlight(index, span, time.monotonic(), waited_s, idle)
        self._admitted += 1

    def receive(self, video: StreamVideoResponse.Video, most_bytes: int | None) -> bool:
        """Takes frames of a block; returns whether they complete it.

        Args:
            video: a message of the decoder.
            most_bytes: that may wait for the client, where that is more than one block; None: any number.

        Raises:
            ServiceError: INTERNAL where no such block is in the pipeline, RESOURCE_EXHAUSTED where too much waits.
        """
        block = self._in_flight.get(video.block_index)
        if block is None:
            message = f"frames came of block {video.block_index}, which is not on its way"
            raise ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", message)
        if most_bytes is not None:
            self._check_room(block, sum(map(len, video.frames)), most_bytes)
        block.add(video)
        if video.last:
            del self._in_flight[video.block_index]
            self._arrived[video.block_index] = block.arrived(video)
        return video.last

    def deliver(self) -> None:
        """Counts the next block as delivered; it is held no longer."""
        self._arrived.pop(self._delivered, None)
        self._delivered += 1

    def go_on(self, block: int) -> None:
        """The client has all blocks before ``block``, and no other was admitted."""
        self._admitted = self._delivered = block

    def rewind(self) -> int:
        """Forgets the blocks that have not come as a whole: they are admitted again; returns the first of them."""
        first = self._delivered
        while first in self._arrived:
            first += 1
        self._end_spans()
        self._arrived = {index: block for index, block in self._arrived.items() if index < first}
        self._admitted = first
        return first

    def end(self) -> None:
        """Lets go of all blocks."""
        self._end_spans()
        self._arrived.clear()

    def _end_spans(self) -> None:
        """Lets go of the blocks in the pipeline."""
        for block in self._in_flight.values():
            block.span.end()
        self._in_flight.clear()

    def _check_room(self, block: BlockInFlight, size: int, most_bytes: int) -> None:
        """Refuses ``size`` bytes more of ``block`` before they are taken; one block may have any size."""
        held = self.held_bytes
        if held + size > max(most_bytes, *self._sizes(), block.size + size):
            raise slow_consumer(f"{held} bytes of video wait")

    def _sizes(self) -> list[int]:
        arrived = [block.size for block in self._arrived.values()]
        return arrived + [block.size for block in self._in_flight.values()]
