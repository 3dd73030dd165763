"""What the gateway says, as clients read it."""

import grpc
from google.rpc import error_details_pb2

from live_avatar.client.results import Event, from_response
from live_avatar.services.gateway.api import messages
from live_avatar.services.gateway.sessions.events import NANOSECONDS, EventKind
from live_avatar.services.gateway.sessions.events import Event as SessionEvent
from live_avatar.serving.errors import DOMAIN, ServiceError

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def degraded(problem: ServiceError | None = None) -> SessionEvent:
    return SessionEvent(kind=EventKind.DEGRADED, utterance_id="u", media_ns=2 * NANOSECONDS, block=4, problem=problem)


def test_a_warning_carries_a_reason_for_programs_and_a_sentence_for_people() -> None:
    problem = ServiceError(PRECONDITION, "PIPELINE_SLOW", "the pipeline is slow", {"service": "denoise-stage-0"})
    warning = messages.notice(degraded(problem)).event.warning

    info = error_details_pb2.ErrorInfo()
    assert warning.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "PIPELINE_SLOW",
        DOMAIN,
        {"service": "denoise-stage-0"},
    )
    assert warning.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert warning.message == "the pipeline is slow"


def test_the_client_reads_an_events_warning() -> None:
    problem = ServiceError(grpc.StatusCode.OK, "PIPELINE_SLOW", "the pipeline keeps up")
    event = from_response(messages.notice(degraded(problem)))

    assert isinstance(event, Event) and event.warning is not None
    assert (event.warning.code, event.warning.reason) == (grpc.StatusCode.OK, "PIPELINE_SLOW")
    assert event.warning.message == "the pipeline keeps up"


def test_an_event_without_a_problem_has_no_warning() -> None:
    event = from_response(messages.notice(degraded()))

    assert isinstance(event, Event) and event.warning is None
