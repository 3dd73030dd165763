"""Events that wait for a client: few, and of interruptions the last."""

import grpc

from live_avatar.config import TINY
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from services.gateway.api import messages
from services.gateway.audio.utterances import Utterances
from services.gateway.sessions.events import MAX_WAITING, Event, Notices

Response = api.StreamAvatarResponse


def event(kind: "Event.Kind.ValueType", name: str = "", block: int = 0) -> Response:
    return messages.event(kind, name, messages.duration(block, 25), block)


def new_notices(failures: list[ServiceError]) -> Notices:
    return Notices(Utterances(), 16_000, TINY, lambda: None, failures.append)


def test_interruptions_that_nobody_has_read_are_one() -> None:
    notices = new_notices([])
    notices.add(event(Event.KIND_DEGRADED))
    for block in range(10_000):
        notices.add(event(Event.KIND_UTTERANCE_INTERRUPTED, "a", block))
    notices.add(event(Event.KIND_UTTERANCE_INTERRUPTED, "b", 3))
    told = [notices.take().event for _ in range(len(notices))]
    assert [(one.kind, one.utterance_id, one.block_index) for one in told] == [
        (Event.KIND_DEGRADED, "", 0),
        (Event.KIND_UTTERANCE_INTERRUPTED, "a", 9_999),
        (Event.KIND_UTTERANCE_INTERRUPTED, "b", 3),
    ]


def test_a_client_that_reads_no_events_is_a_slow_consumer() -> None:
    failures: list[ServiceError] = []
    notices = new_notices(failures)
    for block in range(MAX_WAITING):
        notices.add(event(Event.KIND_DEGRADED, block=block))
    assert not failures
    notices.add(event(Event.KIND_RECOVERED))
    assert [(one.code, one.reason) for one in failures] == [(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")]
    assert len(notices) == MAX_WAITING
