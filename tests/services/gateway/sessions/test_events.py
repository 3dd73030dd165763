"""Events that wait for a client: few, and of interruptions the last."""

import grpc

from live_avatar.config import TINY
from live_avatar.services.gateway.audio.utterances import Utterances
from live_avatar.services.gateway.sessions.events import MAX_WAITING, Event, EventKind, EventQueue, media_ns
from live_avatar.serving.errors import ServiceError


def event(kind: EventKind, name: str = "", block: int = 0) -> Event:
    return Event(kind=kind, utterance_id=name, media_ns=media_ns(block, 25), block=block)


def new_queue(failures: list[ServiceError]) -> EventQueue:
    return EventQueue(Utterances(), 16_000, TINY, lambda: None, failures.append)


def test_interruptions_that_nobody_has_read_are_one() -> None:
    queue = new_queue([])
    queue.add(event(EventKind.DEGRADED))
    for block in range(10_000):
        queue.add(event(EventKind.UTTERANCE_INTERRUPTED, "a", block))
    queue.add(event(EventKind.UTTERANCE_INTERRUPTED, "b", 3))
    waiting = [queue.take() for _ in range(len(queue))]
    assert [(one.kind, one.utterance_id, one.block) for one in waiting if isinstance(one, Event)] == [
        (EventKind.DEGRADED, "", 0),
        (EventKind.UTTERANCE_INTERRUPTED, "a", 9_999),
        (EventKind.UTTERANCE_INTERRUPTED, "b", 3),
    ]


def test_a_client_that_reads_no_events_is_a_slow_consumer() -> None:
    failures: list[ServiceError] = []
    queue = new_queue(failures)
    for block in range(MAX_WAITING):
        queue.add(event(EventKind.DEGRADED, block=block))
    assert not failures
    queue.add(event(EventKind.RECOVERED))
    assert [(one.code, one.reason) for one in failures] == [(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")]
    assert len(queue) == MAX_WAITING
