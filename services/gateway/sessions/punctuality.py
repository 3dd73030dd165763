"""Whether a live viewer has to wait, what for, and how that is told: as events and as metrics.

Knows the session's pacing and its blocks; when a block enters and how it is written is for others to say.
"""

import asyncio
import time
from collections.abc import Iterable

import grpc

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.pipeline.v1.blocks_pb2 import BlockTiming
from live_avatar.serving.telemetry import Telemetry
from live_avatar.streaming.pacing import NS_PER_S
from services.gateway.api import messages
from services.gateway.audio.live_speech import Filled
from services.gateway.sessions.degradation import NOTED_NS, Cause, Condition
from services.gateway.sessions.events import Event
from services.gateway.sessions.live import Live
from services.gateway.sessions.progress import Arrived
from services.gateway.sessions.session import Session

STANDSTILL_NS = 2 * NS_PER_S
"""Waiting for one block that is told of before the block has come."""
_LOOK_S = 0.1
"""How long a viewer who waits may go unnoticed beyond ``NOTED_NS``."""
_RARELY_S = 0.5
_NS_PER_MS = 1_000_000
_HANDOVER_NS = 40_000_000
"""What it may take to write a block without the client being called slow; one frame."""
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


class Punctuality:
    """That of one live stream; a context manager, since a session that is over is no longer degraded."""

    def __init__(self, session: Session, live: Live, telemetry: Telemetry) -> None:
        self._session = session
        self._live = live
        self._telemetry = telemetry
        self._conditions = {cause: Condition() for cause in Cause}
        self._busiest = ""
        """Service where a block was for longest, of the newest block that was long anywhere; empty after recovery."""

    def __enter__(self) -> "Punctuality":
        return self

    def __exit__(self, *exc: object) -> None:
        for cause, condition in self._conditions.items():
            if condition.degraded:
                self._telemetry.degraded(cause, -1)

    def admitted(self, block: int, filled: Filled) -> None:
        """``block`` entered the pipeline with the speech that had come."""
        if filled.starved:
            self._telemetry.audio_starved()
        self._note(Cause.AUDIO_STARVED, block, self._live.rules.block_ns if filled.starved else 0)

    def delivered(self, block: int, arrived: Arrived, now_ns: int) -> None:
        """The client has all of ``block``; before playback is told."""
        self._busiest = busiest(arrived.timings, self._live.rules.block_ns // 2) or self._busiest
        for cause, late_ns in self._late(arrived, now_ns).items():
            if late_ns:
                self._telemetry.viewer_waited(cause, late_ns / NS_PER_S)
            self._note(cause, block, late_ns)

    async def watch(self) -> None:
        """Tells of a viewer who waits before what they wait for has come; runs until cancelled."""
        while True:
            await asyncio.sleep(self._next_look_s(time.monotonic_ns()))
            self.look(time.monotonic_ns())

    def look(self, now_ns: int) -> None:
        """Tells where the viewer has waited for long enough by now.

        A block that has not come is given longer than that: it tells itself which service is slow.
        """
        session, arrived = self._session, self._session.arrived.get(self._session.delivered)
        late = self._late(arrived, now_ns)
        if session.all_delivered or (arrived is None and late[Cause.PIPELINE_SLOW] < STANDSTILL_NS):
            return
        for cause, late_ns in late.items():
            condition = self._conditions[cause]
            if condition.foresee(session.delivered, late_ns):
                self._tell(cause, session.delivered, condition)

    def _next_look_s(self, now_ns: int) -> float:
        dry_ns = self._live.pacer.playback.dry_at_ns
        if dry_ns is None:
            return _RARELY_S
        return min(_RARELY_S, max(_LOOK_S, (dry_ns + NOTED_NS - now_ns) / NS_PER_S))

    def _late(self, arrived: Arrived | None, now_ns: int) -> dict[Cause, int]:
        """By how much pipeline and client made the viewer wait for the next block up to now.

        None: it has not come from the pipeline.
        """
        waited_ns = self._live.pacer.playback.waiting_ns(now_ns)
        if arrived is None:
            return {Cause.PIPELINE_SLOW: waited_ns, Cause.CLIENT_SLOW: 0}
        handing_ns = min(waited_ns, max(0, now_ns - int(arrived.at * NS_PER_S)))
        client_ns = handing_ns if handing_ns > _HANDOVER_NS else 0
        return {Cause.PIPELINE_SLOW: waited_ns - handing_ns, Cause.CLIENT_SLOW: client_ns}

    def _note(self, cause: Cause, block: int, late_ns: int) -> None:
        condition = self._conditions[cause]
        if condition.note(block, late_ns):
            self._tell(cause, block, condition)

    def _tell(self, cause: Cause, block: int, condition: Condition) -> None:
        degraded = condition.degraded
        self._telemetry.degraded(cause, 1 if degraded else -1)
        metadata = {"late_ms": f"{condition.late_ns // _NS_PER_MS}", "lost_ms": f"{condition.lost_ns // _NS_PER_MS}"}
        message = (_DEGRADED if degraded else _RECOVERED)[cause]
        if cause is Cause.PIPELINE_SLOW and self._busiest:
            metadata["service"] = self._busiest
            message += f"; most time {'goes' if degraded else 'went'} into {self._busiest}"
            self._busiest = self._busiest if degraded else ""
        code = grpc.StatusCode.DEADLINE_EXCEEDED if degraded else grpc.StatusCode.OK
        warning = messages.warning(cause.value, message, metadata, code)
        kind = Event.KIND_DEGRADED if degraded else Event.KIND_RECOVERED
        name = self._session.utterances.last if cause is Cause.AUDIO_STARVED else ""
        at = messages.duration(self._session.heard_end(block - 1), SAMPLE_RATE_HZ)
        self._session.notices.add(messages.event(kind, name, at, block, warning))


def busiest(timings: Iterable[BlockTiming], least_ns: int) -> str:
    """Name of the service where a block was for longest, waiting included; empty where that is under ``least_ns``."""
    longest = max(timings, key=_spent_ns, default=BlockTiming())
    return longest.service if _spent_ns(longest) >= least_ns else ""


def _spent_ns(timing: BlockTiming) -> int:
    times = (timing.queue_time, timing.compute_time, timing.encode_time, timing.hop_time)
    return sum(time.ToNanoseconds() for time in times)
