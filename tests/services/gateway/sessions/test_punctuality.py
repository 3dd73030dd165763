"""The states of a live session: each has a beginning and an end, and neither comes often."""

import asyncio
import time
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from live_avatar.client.results import Event, from_response
from live_avatar.services.gateway.api import messages
from live_avatar.services.gateway.sessions.ledger import ArrivedBlock
from live_avatar.services.gateway.sessions.punctuality import CALM_BLOCKS, NOTED_NS, STANDSTILL_NS, Cause, Degradation
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.serving.telemetry import Telemetry
from live_avatar.streaming.pacing import NS_PER_S
from live_avatar.v1.avatar_service_pb2 import BlockTiming
from tests.services.gateway.live_session import admit, arrive, arrived, delivery_of, live_session

BLOCK_NS = 480_000_000
MS = NS_PER_S // 1000
Busy = tuple[tuple[str, int], ...]
"""Services, and the milliseconds that each spent on a block."""
BUSY: Busy = ("audio-encoder", 20), ("denoise-stage-2", 900), ("vae-decoder", 100)


def changes(condition: Degradation, lateness: list[int]) -> list[int]:
    """Blocks at which the state changes."""
    return [block for block, late_ns in enumerate(lateness) if condition.note(block, late_ns)]


def test_one_late_block_is_enough_where_a_viewer_notices_it() -> None:
    assert changes(Degradation(), [0, NOTED_NS - 1, 0, 0, 0, 0, 0]) == []
    assert changes(Degradation(), [0, NOTED_NS, 0, 0, 0, 0, 0]) == [1, 5]


def test_a_pipeline_that_is_a_little_too_slow_is_found_in_the_end() -> None:
    assert changes(Degradation(), [NOTED_NS // 10] * 20) == [9]


def test_little_delays_with_calm_between_are_nothing() -> None:
    assert changes(Degradation(), ([NOTED_NS // 2] + [0] * CALM_BLOCKS) * 20) == []


def test_a_flapping_pipeline_is_reported_of_once() -> None:
    assert changes(Degradation(), [NOTED_NS, 0, 0] * 50) == [0]


@given(st.lists(st.sampled_from([0, 0, 0, 1, NOTED_NS // 3, NOTED_NS, 10 * NOTED_NS]), max_size=200))
def test_changes_are_rare_whatever_happens(lateness: list[int]) -> None:
    condition, found = Degradation(), list[bool]()
    blocks = []
    for block, late_ns in enumerate(lateness):
        if condition.foresee(block, late_ns) | condition.note(block, late_ns):
            blocks.append(block)
            found.append(condition.degraded)
    assert found == [index % 2 == 0 for index in range(len(found))]
    assert all(later - earlier >= CALM_BLOCKS for earlier, later in pairwise(blocks))
    for block in range(len(lateness), len(lateness) + CALM_BLOCKS):
        condition.note(block, 0)
    assert not condition.degraded


class Watched:
    """A live session under a fake clock: blocks are handed out as the test says, and everything told is kept."""

    def __init__(self) -> None:
        self.telemetry = Counting("test")
        self.session: Session = asyncio.run(_made(self.telemetry))
        self.live = delivery_of(self.session)
        self.punctuality = self.live.punctuality
        self.now_ns = time.monotonic_ns()

    def deliver(self, after_ns: int, *, held_ns: int = 0, busy: Busy = BUSY) -> list[Event]:
        """The next block comes from the pipeline so long after the last one, and the client takes it later still."""
        self.now_ns += after_ns + held_ns
        block = self._next_block()
        self.live.block_shown(came(block, (self.now_ns - held_ns) / NS_PER_S, busy), self.now_ns)
        self.session.ledger.deliver()
        return self.events()

    def wait(self, duration_ns: int, *, is_there: bool = False) -> list[Event]:
        """Time passes without a delivery; the next block came from the pipeline at its beginning, or has not come."""
        block = self._next_block()
        if is_there:
            arrive(self.session, came(block, self.now_ns / NS_PER_S))
        self.now_ns += duration_ns
        self.punctuality.look(self.now_ns)
        return self.events()

    def _next_block(self) -> int:
        """Index of the one that is delivered next, which is admitted."""
        if not self.session.ledger.ahead:
            admit(self.session)
        return self.session.ledger.delivered

    def events(self) -> list[Event]:
        waiting = [self.session.events.take() for _ in range(len(self.session.events))]
        responses = [messages.notice(notice) for notice in waiting]
        return [result for response in responses if isinstance(result := from_response(response), Event)]


async def _made(telemetry: Telemetry) -> Session:
    return live_session(telemetry)


class Counting(Telemetry):
    """Sums up what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sessions = dict.fromkeys(Cause, 0)
        self.waited_s = dict.fromkeys(Cause, 0.0)

    def degraded(self, reason: str, sessions: int) -> None:
        self.sessions[Cause(reason)] += sessions

    def viewer_waited(self, reason: str, seconds: float) -> None:
        self.waited_s[Cause(reason)] += seconds


def came(block: int, at: float, busy: Busy = BUSY) -> ArrivedBlock:
    timings = []
    for service, milliseconds in busy:
        timings.append(BlockTiming(service=service))
        timings[-1].compute_time.FromMilliseconds(milliseconds)
    return replace(arrived(block), timings=tuple(timings), at=at)


def reported(events: list[Event]) -> list[tuple[str, str]]:
    """Kind and reason of each."""
    return [(event.kind, event.warning.reason if event.warning else "") for event in events]


def test_a_slow_pipeline_is_named_with_its_slowest_service_and_recovers() -> None:
    watched, events = Watched(), list[Event]()
    for _ in range(6):
        events += watched.deliver(2 * BLOCK_NS)
    assert reported(events) == [("DEGRADED", "PIPELINE_SLOW")]
    warning = events[0].warning
    assert warning is not None
    assert warning.code.name == "DEADLINE_EXCEEDED"
    assert warning.metadata["service"] == "denoise-stage-2" and "denoise-stage-2" in warning.message
    assert abs(int(warning.metadata["late_ms"]) - 600) <= 1  # block 0 has three frames less
    assert (events[0].block_index, events[0].media_time_ns) == (1, BLOCK_NS)
    assert watched.telemetry.sessions[Cause.PIPELINE_SLOW] == 1
    assert abs(watched.telemetry.waited_s[Cause.PIPELINE_SLOW] - (0.6 + 4 * 0.48)) < 0.01
    assert watched.telemetry.waited_s[Cause.CLIENT_SLOW] == 0
    events = []
    for _ in range(6):
        events += watched.deliver(BLOCK_NS)
    assert reported(events) == [("RECOVERED", "PIPELINE_SLOW")]
    assert events[0].warning is not None and events[0].warning.code.name == "OK"
    assert events[0].warning.metadata["service"] == "denoise-stage-2"
    assert abs(int(events[0].warning.metadata["lost_ms"]) - 2520) <= 5
    assert watched.telemetry.sessions[Cause.PIPELINE_SLOW] == 0


def test_a_pipeline_that_stands_still_is_reported_of_while_it_does() -> None:
    watched = Watched()
    watched.deliver(0)
    assert reported(watched.wait(360 * MS)) == []
    assert reported(watched.wait(STANDSTILL_NS - 10 * MS)) == []
    assert reported(watched.wait(11 * MS)) == [("DEGRADED", "PIPELINE_SLOW")]
    assert reported(watched.wait(5_000 * MS)) == []
    assert reported(watched.deliver(0)) == []


def test_no_service_is_named_that_did_not_take_long() -> None:
    """The newest block came before the pipeline stood still: it says nothing of why."""
    watched = Watched()
    watched.deliver(0, busy=())
    (event,) = watched.wait(3_000 * MS)
    assert event.warning is not None and "service" not in event.warning.metadata

    watched = Watched()
    watched.deliver(0, busy=(("denoise-stage-2", 30), ("vae-decoder", 40)))
    (event,) = watched.wait(3_000 * MS)
    assert event.warning is not None and "service" not in event.warning.metadata


def test_a_client_that_does_not_take_its_video_is_named() -> None:
    watched = Watched()
    watched.deliver(0)
    assert reported(watched.wait(481 * MS, is_there=True)) == [("DEGRADED", "CLIENT_SLOW")]
    assert watched.telemetry.sessions == {Cause.AUDIO_STARVED: 0, Cause.PIPELINE_SLOW: 0, Cause.CLIENT_SLOW: 1}


def test_each_is_informed_what_it_is_to_blame_for() -> None:
    """The pipeline was late by 0.5 s, and the client by as much again."""
    watched = Watched()
    watched.deliver(0)
    events = watched.deliver(860 * MS, held_ns=500 * MS)
    assert reported(events) == [("DEGRADED", "PIPELINE_SLOW"), ("DEGRADED", "CLIENT_SLOW")]
    late = [int(event.warning.metadata["late_ms"]) for event in events if event.warning is not None]
    assert all(abs(one - 500) <= 1 for one in late), late


def test_the_time_to_hand_a_block_over_is_nobodys_fault() -> None:
    watched, events = Watched(), list[Event]()
    for _ in range(20):
        events += watched.deliver(900 * MS, held_ns=30 * MS)
    assert reported(events) == [("DEGRADED", "PIPELINE_SLOW")]


def test_blocks_in_time_are_not_reported_of() -> None:
    watched, events = Watched(), list[Event]()
    watched.deliver(0)
    watched.deliver(0)
    for _ in range(50):
        events += watched.deliver(BLOCK_NS - 100 * MS, held_ns=100 * MS)
    assert events == []


def test_starved_speech_has_a_reason() -> None:
    watched = Watched()
    for block in range(12):
        watched.punctuality.admitted(block, starved=block < 3)
    events = watched.events()
    assert reported(events) == [("DEGRADED", "AUDIO_STARVED"), ("RECOVERED", "AUDIO_STARVED")]
    assert [event.block_index for event in events] == [0, 2 + CALM_BLOCKS]


def test_several_causes_hold_at_the_same_time() -> None:
    watched, events = Watched(), list[Event]()
    for block in range(4):
        watched.punctuality.admitted(block, starved=True)
        events += watched.deliver(2 * BLOCK_NS)
    assert reported(events) == [("DEGRADED", "AUDIO_STARVED"), ("DEGRADED", "PIPELINE_SLOW")]
    for block in range(4, 12):
        watched.punctuality.admitted(block, starved=False)
        events += watched.deliver(2 * BLOCK_NS)
    assert reported(events)[2:] == [("RECOVERED", "AUDIO_STARVED")]


def test_a_session_that_is_over_is_no_longer_counted() -> None:
    watched = Watched()
    with closing(watched.live):
        watched.deliver(0)
        watched.deliver(2_000 * MS)
        assert watched.telemetry.sessions[Cause.PIPELINE_SLOW] == 1
    assert set(watched.telemetry.sessions.values()) == {0}


def test_reports_do_not_hide_that_the_viewer_waits() -> None:
    """A viewer who has played everything says so again and again; the wait counts from when they ran out."""
    watched, events = Watched(), list[Event]()
    watched.deliver(0)
    for _ in range(15):
        watched.now_ns += 200 * MS
        frames = min(9, (watched.now_ns - time.monotonic_ns()) * 25 // NS_PER_S)
        watched.live.pacer.playback.report(frames, watched.now_ns)
        events += watched.wait(0)
    assert reported(events) == [("DEGRADED", "PIPELINE_SLOW")]
    watched.deliver(0)
    assert watched.telemetry.waited_s[Cause.PIPELINE_SLOW] > 2.4
