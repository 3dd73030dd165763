"""Events of a live stream in whatever order its client, its pipeline and its line act."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from live_avatar.services.gateway.api.stream import Stream
from live_avatar.services.gateway.sessions.events import GoAway
from live_avatar.services.gateway.sessions.session import IDLE, Session
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.live_session import admit, arrive, arrived, live_session

Request = api.StreamAvatarRequest
Response = api.StreamAvatarResponse
Event = Response.Event
STARTED, FINISHED = Event.KIND_UTTERANCE_STARTED, Event.KIND_UTTERANCE_FINISHED
INTERRUPTED, APPLIED = Event.KIND_UTTERANCE_INTERRUPTED, Event.KIND_UPDATE_APPLIED
ORDERS = [[STARTED, FINISHED], [STARTED, INTERRUPTED], [INTERRUPTED]]
"""Events of one utterance."""


class Line:
    """A stream whose messages are handed over by hand; what it writes takes as long as the test lets it."""

    def __init__(self, pauses: list[int]) -> None:
        self.session = live_session()
        self.written: list[Response] = []
        self.spoken: list[str] = []
        """Names of all utterances, in the order of their first piece."""
        self.updated: set[int] = set()
        """Blocks from which on an update holds."""
        self._pauses = iter(pauses)
        self._name = ""
        self._sent = 0
        self.stream = Stream(self.session, _no_requests(), self._write, Telemetry("test"))

    async def _write(self, response: Response) -> None:
        for _ in range(next(self._pauses, 0)):
            await asyncio.sleep(0)
        self.written.append(response)

    def act(self, what: str) -> None:
        """One thing that a client or a pipeline does."""
        getattr(self, f"_{what}")()

    def _speak(self) -> None:
        if not self._name:
            self._name, self._sent = f"utterance {len(self.spoken)}", 0
            self.spoken.append(self._name)
        piece = Request.AudioChunk(data=b"\1\0" * 3_000, sample_offset=self._sent, utterance_id=self._name)
        self._sent += 3_000
        self.stream.receive(Request(audio_chunk=piece))

    def _end(self) -> None:
        self.session.delivery.end_utterance(self._name)
        self._name = ""

    def _interrupt(self) -> None:
        """By the client that speaks: what it says next is another utterance."""
        self.session.delivery.interrupt("", "", in_order=False)
        self._name = ""

    def _interrupt_unawares(self) -> None:
        """By somebody else: the client goes on with what it says."""
        self.session.delivery.interrupt("", "", in_order=False)

    def _interrupt_old(self) -> None:
        """Of an utterance that is over, or is not."""
        if self.spoken:
            self.session.delivery.interrupt(self.spoken[0], "", in_order=False)

    def _update(self) -> None:
        self.updated.add(self.session.update("a fox").result())

    def _admit(self) -> None:
        session = self.session
        if session.delivery.finished or session.ledger.ahead > 5:
            return
        admission = session.delivery.admit(time.monotonic_ns())
        arrive(session, arrived(admit(session, idle=admission.idle), idle=admission.idle))
        session.changed.notify()

    async def finish(self, delivering: "asyncio.Task[None]") -> None:
        """Lets the stream come to its end."""
        self.session.delivery.finish()
        self.session.changed.notify()
        while not delivering.done():
            self._admit()
            await asyncio.sleep(0)

    def events(self) -> list[Event]:
        return [one.event for one in self.written if one.HasField("event")]

    def utterance_events(self) -> list[Event]:
        """Those about utterances."""
        return [event for event in self.events() if event.kind in (STARTED, FINISHED, INTERRUPTED)]


async def _no_requests() -> AsyncIterator[Request]:
    for request in list[Request]():
        yield request


def play(acts: list[str], pauses: list[int]) -> Line:
    """A whole stream; ``wait`` among the acts lets its tasks run."""

    async def scenario() -> Line:
        line = Line(pauses)
        telling = asyncio.create_task(line.stream._emit_all())
        delivering = asyncio.create_task(line.stream._deliver_all())
        for act in acts:
            if act == "wait":
                await asyncio.sleep(0)
            else:
                line.act(act)
        await line.finish(delivering)
        telling.cancel()
        await asyncio.gather(delivering, asyncio.wait([telling]))
        return line

    return asyncio.run(scenario())


ACTS = st.sampled_from(
    ["speak", "speak", "speak", "end", "interrupt", "interrupt_unawares", "interrupt_old", "update", "admit", "admit"]
    + ["wait"] * 4
)


@settings(deadline=None, max_examples=150)
@given(st.lists(ACTS, max_size=60), st.lists(st.integers(0, 3), max_size=60))
# Interrupted after its blocks were admitted and before they came.
@example(["speak"] * 6 + ["admit"] * 3 + ["interrupt"], [])
# Several begin in one block, and the barge-in comes while that is being written.
@example(["speak", "end", "speak", "end", "admit", "wait", "wait", "interrupt"], [3, 3, 3, 3])
# Those that wait behind the one that is heard.
@example(["speak", "end", "speak", "end", "speak", "interrupt", "admit"], [])
# Over, then named in a barge-in.
@example(["speak", "end", "admit", *["wait"] * 60, "interrupt_old"], [])
# Said whole, all of it admitted.
@example(["speak", "end", "admit", "interrupt", *["wait"] * 20], [])
# Two updates of one block.
@example(["update", "update", "admit"], [])
def test_the_events_of_every_utterance_are_in_order(acts: list[str], pauses: list[int]) -> None:
    line = play(acts, pauses)
    assert [one.server_sequence for one in line.written] == list(range(len(line.written)))
    assert not line.session.events
    for name in line.spoken:
        assert [event.kind for event in line.utterance_events() if event.utterance_id == name] in ORDERS, name
    for kind in (STARTED, FINISHED):
        names = [event.utterance_id for event in line.events() if event.kind == kind]
        assert names == sorted(names, key=line.spoken.index)
        times = [event.media_time.ToNanoseconds() for event in line.events() if event.kind == kind]
        assert times == sorted(times)
    for name in {event.utterance_id for event in line.events()}:
        assert name in ("", *line.spoken)
    check_updates(line)
    check_places(line)


def check_updates(line: Line) -> None:
    """Each block from which on an update holds is told once, and in order."""
    blocks = [event.block_index for event in line.events() if event.kind == APPLIED]
    assert blocks == sorted(block for block in line.updated if block < line.session.ledger.delivered)


def check_places(line: Line) -> None:
    """An event stands on the right side of the video it is about."""
    seen = -1
    for response in line.written:
        if response.HasField("video_unit"):
            seen = response.video_unit.block_index
        elif response.event.kind in (STARTED, APPLIED):
            assert seen < response.event.block_index
        elif response.event.kind == FINISHED:
            assert seen >= response.event.block_index - 1


def test_a_barge_in_ends_everything_that_waits_and_says_so_of_each() -> None:
    line = play(["speak", "end", "speak", "end", "speak", "interrupt"], [])
    assert [(event.kind, event.utterance_id) for event in line.utterance_events()] == [
        (INTERRUPTED, name) for name in ("utterance 0", "utterance 1", "utterance 2")
    ]


def test_a_barge_in_that_meets_nothing_is_answered_without_a_name() -> None:
    line = play(["interrupt"], [])
    assert [(event.kind, event.utterance_id) for event in line.utterance_events()] == [(INTERRUPTED, "")]


def test_an_utterance_that_is_over_is_not_interrupted() -> None:
    line = play(["speak", "end", "admit", *["wait"] * 60, "interrupt_old"], [])
    assert [(event.kind, event.utterance_id) for event in line.utterance_events()] == [
        (STARTED, "utterance 0"),
        (FINISHED, "utterance 0"),
        (INTERRUPTED, ""),
    ]


def test_what_is_reported_last_is_written_before_the_stream_ends() -> None:
    """The task that tells may have begun to write when the last block has left."""
    line = play([*["admit", "wait"] * 3, *["wait"] * 50, "interrupt"], [*[0] * 36, 40])
    assert line.events()[-1].kind == INTERRUPTED
    assert not line.session.events


@pytest.fixture
def session() -> Iterator[Session]:
    async def made() -> Session:
        return live_session()

    yield asyncio.run(made())


def go_aways(session: Session) -> list[str]:
    """Reasons of what is to be told."""
    waiting = [session.events.take() for _ in range(len(session.events))]
    return [notice.reason for notice in waiting if isinstance(notice, GoAway)]


def test_the_end_of_a_stream_is_announced_once_for_each_reason(session: Session) -> None:
    for _ in range(3):
        session.warn(9, IDLE)
        session.warn(9, "MAX_DURATION")
        session.warn(9, "DRAINING")
    assert go_aways(session) == [IDLE, "MAX_DURATION", "DRAINING"]


def test_speech_takes_back_no_more_than_the_end_by_idleness(session: Session) -> None:
    for reason in (IDLE, "MAX_DURATION", "DRAINING"):
        session.warn(9, reason)
    go_aways(session)
    session.touch("audio_chunk")
    for reason in (IDLE, "MAX_DURATION", "DRAINING"):
        session.warn(9, reason)
    assert go_aways(session) == [IDLE]
