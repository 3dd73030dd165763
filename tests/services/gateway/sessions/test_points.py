"""A session that is rebuilt from what was stored of it goes on exactly as the undisturbed one."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.gateway.v1.recovery_point_pb2 import SpeechState
from live_avatar.pipeline.v1.blocks_pb2 import Sink
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.sessions.point_source import PointSource
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.sessions.snapshot import restore, snapshot
from live_avatar.services.gateway.sessions.stored_point import StoredPoint
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1.media_pb2 import AudioFormat
from tests.services.gateway.live_session import POLICY, admit, arrived, delivery_of, live_config

Samples = np.ndarray[tuple[int], np.dtype[np.float32]]
RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]
LEAD = 3
BLOCK = TINY.samples_per_block
MOST_BYTES = 32 << 20


def new_session(rate_hz: int) -> Session:
    record = SessionRecord(
        session_id="one", tenant="", state=0, config=b"", request_hash=b"", request_id="",
        pipeline="", endpoint="", point_epoch=1,
    )  # fmt: skip
    pipeline = cast(Pipeline, SimpleNamespace(preset=TINY, services=("a", "b", "c"), model_digest="weights"))
    config = live_config(rate_hz, AudioFormat.ENCODING_PCM_F32LE)
    return Session(record, config, pipeline, POLICY, Telemetry("test"))


class Run:
    """A session that speaks and shows blocks; what it would be at another gateway is made anew at any block."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.session = new_session(rate_hz)
        self.session.attach(resumable=True)
        self.session.conditioning.portrait_encoded(Sink(version=0))
        self.session.conditioning.first_body()
        self.source = PointSource(self.session, 4, MOST_BYTES)
        self.stored: dict[str, bytes] = {}
        self.writes: list[int] = []
        self._random = np.random.default_rng(rate_hz)
        self._offset = 0

    def speak(self, milliseconds: int) -> bytes:
        samples = self._random.uniform(-1, 1, max(1, self.rate_hz * milliseconds // 1000)).astype("<f4")
        return samples.tobytes()

    def store(self) -> None:
        self.source.note()
        write = self.source.build()
        assert write is not None
        self.stored |= write.fields
        for name in write.removed:
            del self.stored[name]
        self.writes.append(write.size)
        self.source.written(write)

    def next_block(self) -> None:
        """One block is shown, and as many as may be are on their way."""
        while self.session.ledger.ahead < LEAD:
            admit_block(self.session)
        show_block(self.session)
        events(self.session)
        self.store()

    def rebuilt(self, block: int | None = None) -> Session:
        """Another gateway's, at ``block`` or the newest one."""
        point = StoredPoint(dict(self.stored))
        state = point.newest if block is None else point.state(block)
        assert state is not None
        other = new_session(self.rate_hz)
        restore(other, point, state, 1)
        delivery_of(other).move(3)
        return other


def admit_block(session: Session) -> tuple[bool, Samples, int]:
    """What the next block is admitted with."""
    admission = session.delivery.admit(time.monotonic_ns())
    (piece,) = admission.pieces
    admit(session, idle=admission.idle)
    return admission.idle, piece.samples, piece.silence


def show_block(session: Session) -> tuple[Samples, str]:
    """The speech of the next block, which is delivered, and what it belongs to."""
    block = arrived(session.ledger.delivered)
    cut = session.delivery.cut(block)
    session.events.block_begins(block.index, cut.end_sample)
    session.delivery.delivered(block)
    session.ledger._in_flight.pop(block.index, None)
    session.ledger.deliver()
    session.events.block_ended(block.index, cut.end_sample)
    session.attachment.streams.log.end_block()
    return cut.speech, cut.utterance_id


def events(session: Session) -> list[str]:
    return [repr(session.events.take()) for _ in range(len(session.events))]


def speech_of(session: Session) -> SpeechState:
    """Everything of the speech but times."""
    state = snapshot(session).speech
    for one in state.waiting:
        one.age_ns = 0
    return state


Act = Callable[[Session], object]


def act(run: Run, number: int, length_ms: int, offsets: dict[str, int]) -> Act:
    """What a client does next: speaks, ends, or barges in."""
    name = f"u{offsets['utterance']}"
    if number < 6:
        data, at = run.speak(length_ms), offsets["sample"]
        offsets["sample"] += len(data) // 4
        return lambda session: session.delivery.receive_audio(data, at, name, len(data) // 4)
    offsets["utterance"] += 1
    offsets["sample"] = 0
    if number < 8:
        return lambda session: session.delivery.end_utterance("")
    return lambda session: session.delivery.interrupt("", f"call{offsets['utterance']}", in_order=False)


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 1_500)), min_size=2, max_size=14)


@given(STEPS, st.integers(0, 12))
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_a_rebuilt_session_goes_on_as_the_undisturbed_one(steps: list[tuple[int, int]], moment: int) -> None:
    run, offsets = Run(SAMPLE_RATE_HZ), {"utterance": 0, "sample": 0}
    run.store()
    for number, length_ms in steps[:moment]:
        act(run, number, length_ms, offsets)(run.session)
        run.next_block()
    other = run.rebuilt()
    settled = delivery_of(run.session)._idle
    assert [admit_block(other)[0] for _ in range(run.session.ledger.ahead)] == list(settled.values())
    assert speech_of(other) == speech_of(run.session)
    for number, length_ms in steps[moment:]:
        does = act(run, number, length_ms, offsets)
        for session in (run.session, other):
            does(session)
        idle, samples, silence = admit_block(run.session)
        again = admit_block(other)
        assert (idle, silence) == (again[0], again[2])
        assert np.array_equal(samples, again[1])
        shown, name = show_block(run.session)
        shown_again, name_again = show_block(other)
        assert name == name_again and np.array_equal(shown, shown_again)
        assert events(run.session) == events(other)


@pytest.mark.parametrize("rate_hz", RATES)
def test_an_utterance_that_runs_goes_on(rate_hz: int) -> None:
    """What the viewer hears is the same bit for bit; what the model hears is, where nothing is resampled anew."""
    run, at = Run(rate_hz), 0
    sessions = [run.session]
    for block in range(12):
        if block == 6:
            sessions.append(run.rebuilt())
            while sessions[1].ledger.admitted < run.session.ledger.admitted:
                admit_block(sessions[1])
        data = run.speak(480 if block else 1_500)
        for session in sessions:
            session.delivery.receive_audio(data, at, "one", len(data) // 4)
        at += len(data) // 4
        for session in sessions:
            admit_block(session)
        shown = [show_block(session) for session in sessions]
        assert all(np.array_equal(one[0], shown[0][0]) for one in shown)
        run.store()
        if block > 6:
            sound, again = (delivery_of(session)._sound for session in sessions)
            left, right = (one.read(max(sound.first, again.first), min(sound.end, again.end)) for one in (sound, again))
            assert left.size and np.abs(left - right).max() < (1e-6 if rate_hz != SAMPLE_RATE_HZ else 1e-12)


def test_older_blocks_are_kept_and_the_rest_is_deleted() -> None:
    run = Run(SAMPLE_RATE_HZ)
    run.store()
    spoken = []
    for block in range(20):
        data = run.speak(480)
        run.session.delivery.receive_audio(data, block * BLOCK, "one", BLOCK)
        admit_block(run.session)
        spoken.append(show_block(run.session)[0])
        run.store()
    states = sorted(int(name[1:]) for name in run.stored if name[0] == "s" and name[1:].isdigit())
    assert states == list(range(16, 21))
    assert run.rebuilt(16).ledger.delivered == 16
    assert StoredPoint(dict(run.stored)).state(15) is None
    assert sum(map(len, run.stored.values())) < 4 * (6 + TINY.stream.left_context_s) * 2 * SAMPLE_RATE_HZ


def test_a_write_is_as_large_as_what_is_new_and_not_as_what_waits() -> None:
    run = Run(SAMPLE_RATE_HZ)
    run.session.delivery.receive_audio(run.speak(60_000), 0, "one", 60 * SAMPLE_RATE_HZ)
    run.store()
    for _ in range(5):
        admit_block(run.session)
        show_block(run.session)
        run.store()
    first, *later = run.writes
    assert first > 60 * 8 * SAMPLE_RATE_HZ and max(later) < 2_000


def test_a_session_that_needs_too_much_is_stored_no_more() -> None:
    run = Run(SAMPLE_RATE_HZ)
    run.source = PointSource(run.session, 4, 100_000)
    run.session.delivery.receive_audio(run.speak(60_000), 0, "one", 60 * SAMPLE_RATE_HZ)
    run.source.note()
    assert run.source.build() is None and run.source.is_off
    assert run.source.safe == (0, 0), "the client can still go on at this gateway"


def test_of_two_points_that_wait_the_newer_is_written() -> None:
    run = Run(SAMPLE_RATE_HZ)
    run.source.note()
    admit_block(run.session)
    show_block(run.session)
    run.store()
    assert [name for name in run.stored if name.startswith("s") and name != "sink"] == ["s1"]
