"""Admission under a fake clock: blocks come when they are needed, never too far ahead, and at once after silence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live_avatar.streaming.pacing import NS_PER_S, Pacer, PacingRules

MS = NS_PER_S // 1000
RULES = PacingRules(fps=25, frames_per_block=12, dropped_frames=3, max_lead_ms=2000, margin_ms=80)


class Viewer:
    """A pipeline of fixed latency and a viewer, driven millisecond by millisecond."""

    def __init__(self, rules: PacingRules, latency_ms: int, reports: bool) -> None:
        self.pacer = Pacer(rules)
        self.rules = rules
        self.latency_ms = latency_ms
        self.reports = reports
        self.now_ms = 0
        self.on_its_way: list[tuple[int, int]] = []
        self.admitted_ms: list[int] = []
        self.played = 0.0
        self.delivered = 0
        self.stalls_ms = 0
        self.admitted = 0
        self.is_urgent = False
        """Speech came after silence: the next block enters as soon as there is room, not when it is due."""

    def admit_at_ns(self) -> int | None:
        """When the next block is to be admitted; None: not before something is delivered or reported."""
        room_ns = self.pacer.room_at_ns(self.admitted, self.now_ms * MS)
        if room_ns is None or self.is_urgent:
            return room_ns
        return max(self.pacer.needed_at_ns(self.admitted, self.now_ms * MS), room_ns)

    def run(self, milliseconds: int) -> None:
        """Lets time pass."""
        for _ in range(milliseconds):
            self._deliver()
            self._play()
            due = self.admit_at_ns()
            if due is not None and due <= self.now_ms * MS:
                self.pacer.admit(self.admitted, self.now_ms * MS)
                self.admitted_ms.append(self.now_ms)
                self.on_its_way.append((self.now_ms + self.latency_ms, self.admitted))
                self.admitted, self.is_urgent = self.admitted + 1, False
            self.now_ms += 1

    def _deliver(self) -> None:
        while self.on_its_way and self.on_its_way[0][0] <= self.now_ms:
            _, block = self.on_its_way.pop(0)
            self.delivered = self.rules.end_frame(block)
            self.pacer.deliver(block, self.delivered, self.now_ms * MS)

    def _play(self) -> None:
        if not self.delivered:
            return
        if self.played < self.delivered:
            self.played = min(self.played + self.rules.fps / 1000, self.delivered)
        elif self.admitted > 4:
            self.stalls_ms += 1
        if self.reports and self.now_ms % 200 == 0:
            self.pacer.playback.report(int(self.played), self.now_ms * MS)

    @property
    def lead_ms(self) -> float:
        """What the viewer has not seen yet, of all that was admitted."""
        admitted = self.rules.end_frame(self.admitted - 1)
        return 1000 * (admitted - self.played) / self.rules.fps


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize("latency_ms", [5, 120, 400])
def test_a_steady_stream_never_stalls_and_never_runs_ahead(latency_ms: int, reports: bool) -> None:
    viewer = Viewer(RULES, latency_ms, reports)
    viewer.run(5000)
    viewer.stalls_ms = 0
    for _ in range(200):
        viewer.run(100)
        assert viewer.lead_ms <= RULES.max_lead_ms + 1000 / RULES.fps
    assert viewer.stalls_ms == 0
    blocks = len([at for at in viewer.admitted_ms if at >= 5000])
    assert blocks == pytest.approx(20_000 / 480, abs=2)


def test_a_block_enters_just_in_time() -> None:
    """In the steady state a block is admitted one latency and one margin before it is due, not earlier."""
    viewer = Viewer(RULES, 200, reports=True)
    viewer.run(10_000)
    due_ms = viewer.now_ms + (RULES.first_frame(viewer.admitted) - viewer.played) * 40
    admit_ns = viewer.admit_at_ns()
    assert admit_ns is not None
    assert admit_ns / MS == pytest.approx(due_ms - 200 - RULES.margin_ms, abs=45)


def test_speech_after_silence_enters_at_once() -> None:
    viewer = Viewer(RULES, 200, reports=True)
    viewer.run(10_000)
    waits = []
    for pause in range(4000, 4480, 40):
        viewer.run(pause)
        asked = viewer.now_ms
        viewer.is_urgent = True
        viewer.run(480)
        waits.append(next(at for at in viewer.admitted_ms if at >= asked) - asked)
    assert max(waits) <= 1
    assert viewer.lead_ms <= RULES.max_lead_ms + 40


def test_nothing_is_admitted_beyond_the_lead_before_playback_starts() -> None:
    viewer = Viewer(RULES, 60_000, reports=False)
    viewer.run(2000)
    assert viewer.admitted == 4
    assert viewer.admit_at_ns() is None


def test_a_viewer_who_stops_stops_the_pipeline() -> None:
    viewer = Viewer(RULES, 100, reports=False)
    viewer.run(5000)
    frame, blocks = int(viewer.played), viewer.admitted
    for _ in range(100):
        viewer.pacer.playback.report(frame, viewer.now_ms * MS)
        viewer.run(40)
    assert viewer.admitted - blocks <= 2


@settings(max_examples=50, deadline=None)
@given(
    latency_ms=st.integers(0, 600),
    lead_ms=st.integers(480, 3000),
    margin_ms=st.integers(0, 300),
    hurries=st.lists(st.integers(50, 2000), max_size=5),
)
def test_the_lead_is_bounded_whatever_happens(
    latency_ms: int, lead_ms: int, margin_ms: int, hurries: list[int]
) -> None:
    rules = PacingRules(fps=25, frames_per_block=12, dropped_frames=3, max_lead_ms=lead_ms, margin_ms=margin_ms)
    viewer = Viewer(rules, latency_ms, reports=True)
    for pause in hurries:
        viewer.run(pause)
        viewer.is_urgent = True
        if viewer.admitted:
            assert viewer.lead_ms <= lead_ms + 80


def test_a_lead_shorter_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="max_lead_ms=479"):
        PacingRules(fps=25, frames_per_block=12, dropped_frames=3, max_lead_ms=479, margin_ms=80)


def test_blocks_before_the_first_delivery_follow_each_other_as_they_will_be_played() -> None:
    viewer = Viewer(RULES, 700, reports=False)
    viewer.run(1500)
    assert viewer.admitted_ms[0] == 0
    assert viewer.admitted_ms[1] == pytest.approx(360 - RULES.margin_ms, abs=1)
    assert viewer.admitted_ms[2] == pytest.approx(840 - RULES.margin_ms, abs=1)


def test_a_viewer_who_falls_silent_after_reporting_is_not_believed_to_play_on() -> None:
    viewer = Viewer(RULES, 100, reports=True)
    viewer.run(5000)
    viewer.reports, at = False, viewer.pacer.playback.position(viewer.now_ms * MS)
    viewer.run(20_000)
    assert viewer.pacer.playback.position(viewer.now_ms * MS) <= at + RULES.fps + 5
    lead = viewer.rules.end_frame(viewer.admitted - 1) - at
    assert lead <= (RULES.max_lead_ms + RULES.report_holds_ms) * RULES.fps // 1000 + 5


def test_a_report_before_anything_came_says_nothing() -> None:
    viewer = Viewer(RULES, 100, reports=False)
    viewer.pacer.playback.report(10, 0)
    assert not viewer.pacer.playback.started
