"""Whether a live viewer has to wait, what for, and how that is reported: as events and as metrics.

Knows the session's pacing and its blocks; when a block enters and how it is written is for others to say.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import grpc

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.gateway.v1.recovery_point_pb2 import Delay
from live_avatar.services.gateway.sessions.delivery import DeliveryContext
from live_avatar.services.gateway.sessions.events import Event, EventKind, media_ns
from live_avatar.services.gateway.sessions.ledger import ArrivedBlock
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.pacing import NS_PER_S, Pacer
from live_avatar.v1.avatar_service_pb2 import BlockTiming

NOTED_NS = 120_000_000
"""Waiting that a viewer notices, summed up until it has been calm."""
CALM_BLOCKS = 4
"""Blocks in time after which a cause is over; it changes no more often than this."""
STANDSTILL_NS = 2 * NS_PER_S
"""Waiting for one block that is reported before the block has come."""
_LOOK_S = 0.1
"""How long a viewer who waits may go unnoticed beyond ``NOTED_NS``."""
_RARELY_S = 0.5
_NS_PER_MS = 1_000_000
_HANDOVER_NS = 40_000_000
"""What it may take to write a block without the client being called slow; one frame."""


class Cause(StrEnum):
    """Why a live session is not what it should be; part of the API."""

    AUDIO_STARVED = "AUDIO_STARVED"
    """Speech does not come in time, and silence stands in its place."""
    PIPELINE_SLOW = "PIPELINE_SLOW"
    """Blocks come later from the pipeline than they are to be shown."""
    CLIENT_SLOW = "CLIENT_SLOW"
    """Blocks are there in time, and the client does not take them."""


_DEGRADED = {
    Cause.AUDIO_STARVED: "speech does not come in time, and silence stands in its place",
    Cause.PIPELINE_SLOW: "the pipeline is slower than the video is played, and the viewer waits",
    Cause.CLIENT_SLOW: "finished video waits for the client: read it and grant credits",
}
_RECOVERED = {
    Cause.AUDIO_STARVED: "speech comes in time again",
    Cause.PIPELINE_SLOW: "the pipeline keeps up again",
    Cause.CLIENT_SLOW: "the client takes its video in time again",
}


@dataclass
class Degradation:
    """The state of one cause in one session.

    A session is degraded once ``NOTED_NS`` were lost with no calm between, and no longer after ``CALM_BLOCKS`` in time.
    """

    degraded: bool = False
    late_ns: int = 0
    """How late the newest late block was."""
    lost_ns: int = 0
    """All that was lost since it was calm."""
    _calm: int = 0
    """Blocks in time since the last late one."""
    _changed_at: int = -CALM_BLOCKS
    """Block of the last change."""

    def note(self, block: int, late_ns: int) -> bool:
        """Takes by how much ``block`` was late for this cause; returns whether ``degraded`` changes."""
        if late_ns > 0:
            if self._calm >= CALM_BLOCKS:
                self.lost_ns = 0
            self._calm, self.late_ns, self.lost_ns = 0, late_ns, self.lost_ns + late_ns
        else:
            self._calm += 1
        changes = self._calm >= CALM_BLOCKS if self.degraded else self._calm == 0 and self.lost_ns >= NOTED_NS
        return changes and self._change(block)

    def snapshot(self, cause: str) -> Delay:
        """As it is stored."""
        return Delay(
            cause=cause,
            degraded=self.degraded,
            late_ns=self.late_ns,
            lost_ns=self.lost_ns,
            calm=self._calm,
            changed_at=self._changed_at,
        )

    @classmethod
    def of(cls, stored: Delay) -> "Degradation":
        """What ``snapshot`` was made of."""
        return cls(stored.degraded, stored.late_ns, stored.lost_ns, stored.calm, stored.changed_at)

    def foresee(self, block: int, late_ns: int) -> bool:
        """Whether the session is degraded now that ``block``, which has not come yet, is late by so much already."""
        lost_ns = late_ns + (self.lost_ns if self._calm < CALM_BLOCKS else 0)
        if self.degraded or lost_ns < NOTED_NS or not self._change(block):
            return False
        self.late_ns = late_ns
        return True

    def _change(self, block: int) -> bool:
        if block - self._changed_at < CALM_BLOCKS:
            return False
        self.degraded, self._changed_at = not self.degraded, block
        return True


class Punctuality:
    """That of one live session.

    Args:
        context: of its delivery.
        pacer: of its delivery.
        finished: no block follows those that were admitted.
    """

    def __init__(self, context: DeliveryContext, pacer: Pacer, finished: Callable[[], bool]) -> None:
        self._preset = context.preset
        self._ledger = context.ledger
        self._events = context.events
        self._utterances = context.utterances
        self._telemetry = context.telemetry
        self._pacer = pacer
        self._finished = finished
        self._states = {cause: Degradation() for cause in Cause}
        self._busiest = ""
        """Service where a block was for longest, of the newest block that was long anywhere; empty after recovery."""
        self._closed = False

    def close(self) -> None:
        """Counts the session as degraded no longer.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        for cause, state in self._states.items():
            if state.degraded:
                self._telemetry.degraded(cause, -1)

    def snapshot(self) -> list[Delay]:
        """As it is stored."""
        return [state.snapshot(cause.value) for cause, state in self._states.items()]

    def restore(self, stored: Iterable[Delay]) -> None:
        """Makes it what ``snapshot`` was made of."""
        self._states |= {Cause(one.cause): Degradation.of(one) for one in stored}
        for cause, state in self._states.items():
            if state.degraded:
                self._telemetry.degraded(cause, 1)

    def admitted(self, block: int, *, starved: bool) -> None:
        """``block`` entered the pipeline; ``starved``: silence stands where the rest of its speech should."""
        if starved:
            self._telemetry.audio_starved()
        self._note(Cause.AUDIO_STARVED, block, self._pacer.rules.block_ns if starved else 0)

    def delivered(self, arrived: ArrivedBlock, now_ns: int) -> None:
        """The client has all of a block; before playback is moved on."""
        self._busiest = busiest(arrived.timings, self._pacer.rules.block_ns // 2) or self._busiest
        for cause, late_ns in self._late(arrived, now_ns).items():
            if late_ns:
                self._telemetry.viewer_waited(cause, late_ns / NS_PER_S)
            self._note(cause, arrived.index, late_ns)

    async def watch(self) -> None:
        """Reports a viewer who waits before what they wait for has come; runs until cancelled."""
        while True:
            await asyncio.sleep(self._next_look_s(time.monotonic_ns()))
            self.look(time.monotonic_ns())

    def look(self, now_ns: int) -> None:
        """Reports where the viewer has waited for long enough by now.

        A block that has not come is given longer than that: it says itself which service is slow.
        """
        block, arrived = self._ledger.delivered, self._ledger.next_arrived
        late = self._late(arrived, now_ns)
        all_delivered = self._finished() and not self._ledger.ahead
        if all_delivered or (arrived is None and late[Cause.PIPELINE_SLOW] < STANDSTILL_NS):
            return
        for cause, late_ns in late.items():
            state = self._states[cause]
            if state.foresee(block, late_ns):
                self._report(cause, block, state)

    def _next_look_s(self, now_ns: int) -> float:
        dry_ns = self._pacer.playback.dry_at_ns
        if dry_ns is None:
            return _RARELY_S
        return min(_RARELY_S, max(_LOOK_S, (dry_ns + NOTED_NS - now_ns) / NS_PER_S))

    def _late(self, arrived: ArrivedBlock | None, now_ns: int) -> dict[Cause, int]:
        """By how much pipeline and client made the viewer wait for the next block up to now.

        None: it has not come from the pipeline.
        """
        waited_ns = self._pacer.playback.waiting_ns(now_ns)
        if arrived is None:
            return {Cause.PIPELINE_SLOW: waited_ns, Cause.CLIENT_SLOW: 0}
        handing_ns = min(waited_ns, max(0, now_ns - int(arrived.at * NS_PER_S)))
        client_ns = handing_ns if handing_ns > _HANDOVER_NS else 0
        return {Cause.PIPELINE_SLOW: waited_ns - handing_ns, Cause.CLIENT_SLOW: client_ns}

    def _note(self, cause: Cause, block: int, late_ns: int) -> None:
        state = self._states[cause]
        if state.note(block, late_ns):
            self._report(cause, block, state)

    def _report(self, cause: Cause, block: int, state: Degradation) -> None:
        degraded = state.degraded
        self._telemetry.degraded(cause, 1 if degraded else -1)
        metadata = {"late_ms": f"{state.late_ns // _NS_PER_MS}", "lost_ms": f"{state.lost_ns // _NS_PER_MS}"}
        message = (_DEGRADED if degraded else _RECOVERED)[cause]
        if cause is Cause.PIPELINE_SLOW and self._busiest:
            metadata["service"] = self._busiest
            message += f"; most time {'goes' if degraded else 'went'} into {self._busiest}"
            self._busiest = self._busiest if degraded else ""
        code = grpc.StatusCode.DEADLINE_EXCEEDED if degraded else grpc.StatusCode.OK
        self._events.add(
            Event(
                kind=EventKind.DEGRADED if degraded else EventKind.RECOVERED,
                utterance_id=self._utterances.last if cause is Cause.AUDIO_STARVED else "",
                media_ns=media_ns(block * self._preset.samples_per_block, SAMPLE_RATE_HZ),
                block=block,
                problem=ServiceError(code, cause.value, message, metadata),
            )
        )


def busiest(timings: Iterable[BlockTiming], least_ns: int) -> str:
    """Name of the service where a block was for longest, waiting included; empty where that is under ``least_ns``."""
    longest = max(timings, key=_spent_ns, default=BlockTiming())
    return longest.service if _spent_ns(longest) >= least_ns else ""


def _spent_ns(timing: BlockTiming) -> int:
    times = (timing.queue_time, timing.compute_time, timing.encode_time, timing.hop_time)
    return sum(time.ToNanoseconds() for time in times)
