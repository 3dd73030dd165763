"""Barge-ins without a stream: who is told, what is done once, and speech that goes on regardless."""

import time

import numpy as np
import pytest

from live_avatar.services.gateway.api import messages
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.sessions.barge_ins import UTTERANCE_OVER
from live_avatar.services.gateway.sessions.live import LiveDelivery
from live_avatar.serving.errors import ServiceError, from_status
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.live_session import RATE_HZ, live_config, live_context

PIECE = 1_000
MOST_S = 2


class Conversation:
    """A live session's speech, and the events that its client gets."""

    def __init__(self) -> None:
        context = live_context(live_config(), limits=Limits(max_live_audio_seconds=MOST_S))
        self.live = LiveDelivery(context)
        self.queue = context.events
        self.events: list[api.StreamAvatarResponse.Event] = []
        self.sequence = 0

    def speak(self, offset: int, name: str = "", samples: int = PIECE) -> None:
        self._count()
        self.live.receive_audio(np.full(samples, 100, "<i2").tobytes(), offset, name, samples)
        self._read()

    def interrupt(self, name: str = "", request_id: str = "", *, in_order: bool = False) -> int:
        if in_order:
            self._count()
        done = self.live.interrupt(name, request_id, in_order=in_order)
        self._read()
        return done.first_clean

    def _count(self) -> None:
        self.sequence += 1
        self.queue.message_consumed(self.sequence)

    def _read(self) -> None:
        while self.queue:
            self.events.append(messages.notice(self.queue.take()).event)

    @property
    def waits(self) -> int:
        """Samples that are to be spoken."""
        return self.live.speech.queued_samples


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "offset"),
    [("one", "two", 0), ("one", "two", PIECE), ("", "", 0), ("one", "one", 0), ("one", "", 0), ("", "two", PIECE)],
)
def test_the_utterance_after_an_interrupt_is_spoken(in_order: bool, before: str, after: str, offset: int) -> None:
    talk = Conversation()
    talk.speak(0, before)
    talk.interrupt(in_order=in_order)
    talk.speak(offset, after)
    talk.speak(offset + PIECE, after)
    talk.live.speech.end_utterance()
    talk.speak(0, "three")
    assert talk.waits == 3 * PIECE


def test_a_new_name_counts_on_from_where_it_began() -> None:
    talk = Conversation()
    talk.speak(0, "one")
    talk.interrupt()
    talk.speak(PIECE, "two")
    with pytest.raises(ServiceError, match=f"sample_offset is {PIECE} where {2 * PIECE} was due"):
        talk.speak(PIECE, "two")


def test_the_rest_of_an_interrupted_utterance_is_dropped_to_its_end() -> None:
    talk = Conversation()
    talk.speak(0, "one")
    talk.interrupt()
    talk.speak(PIECE, "one")
    talk.speak(2 * PIECE)
    talk.live.speech.end_utterance("one")
    assert talk.waits == 0
    talk.speak(0)
    assert talk.waits == PIECE


def test_the_late_end_of_an_interrupted_utterance_does_not_end_the_next() -> None:
    talk = Conversation()
    talk.speak(0, "one")
    talk.interrupt()
    talk.speak(0, "two")
    talk.live.speech.end_utterance("one")
    talk.speak(PIECE, "two")
    assert talk.waits == 2 * PIECE


def test_an_event_says_which_messages_came_before_it() -> None:
    talk = Conversation()
    talk.speak(0, "one")
    talk.speak(PIECE, "one")
    talk.interrupt()
    assert [event.last_consumed_client_sequence for event in talk.events] == [2]
    talk.speak(0, "two")
    talk.interrupt("one")
    assert [event.last_consumed_client_sequence for event in talk.events] == [2, 0]
    assert talk.waits == PIECE


def test_both_doors_with_one_request_id_are_one_interruption() -> None:
    call_first, stream_first = Conversation(), Conversation()
    for talk in (call_first, stream_first):
        talk.speak(0, "one")
    call_first.interrupt(request_id="id")
    call_first.speak(PIECE, "one")
    call_first.interrupt(request_id="id", in_order=True)
    stream_first.interrupt(request_id="id", in_order=True)
    stream_first.speak(0, "two")
    stream_first.interrupt(request_id="id")
    call_first.speak(0, "two")
    for talk in (call_first, stream_first):
        assert len(talk.events) == 1
        assert talk.waits == PIECE


def test_an_utterance_that_was_on_its_way_when_the_call_came_is_dropped_by_the_stream() -> None:
    talk = Conversation()
    talk.interrupt(request_id="id")
    talk.speak(0, "one")
    assert talk.waits == PIECE
    talk.interrupt(request_id="id", in_order=True)
    assert talk.waits == 0
    assert [event.utterance_id for event in talk.events] == ["", "one"]


def test_a_client_that_goes_on_is_reminded_once_and_refused_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversation()
    talk.speak(0, "one")
    talk.interrupt()
    talk.speak(PIECE, "one")
    assert len(talk.events) == 1
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now + 3 * 10**9)
    for piece in range(2, 5):
        talk.speak(piece * PIECE, "one")
    _, reminder = talk.events
    assert from_status(reminder.warning).reason == UTTERANCE_OVER
    assert (reminder.utterance_id, reminder.last_consumed_client_sequence) == ("one", 3)
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        for piece in range(5, 40):
            talk.speak(piece * PIECE, "one")
    assert talk.sequence > MOST_S * RATE_HZ // PIECE
