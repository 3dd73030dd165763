"""What the gateway says, as clients read it."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from live_avatar.client.results import Event, from_response
from live_avatar.serving.errors import DOMAIN
from live_avatar.v1 import avatar_service_pb2 as api
from services.gateway.api import messages

DEGRADED = api.StreamAvatarResponse.Event.KIND_DEGRADED


def test_a_warning_carries_a_reason_for_programs_and_a_sentence_for_people() -> None:
    warning = messages.warning("PIPELINE_SLOW", "the pipeline is slow", {"service": "denoise-stage-0"})

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
    warning = messages.warning("PIPELINE_SLOW", "the pipeline keeps up", code=grpc.StatusCode.OK)
    event = from_response(messages.event(DEGRADED, "u", Duration(seconds=2), 4, warning))

    assert isinstance(event, Event) and event.warning is not None
    assert (event.warning.code, event.warning.reason) == (grpc.StatusCode.OK, "PIPELINE_SLOW")
    assert event.warning.message == "the pipeline keeps up"


def test_an_event_without_a_problem_has_no_warning() -> None:
    event = from_response(messages.event(DEGRADED, "u", Duration(seconds=2), 4))

    assert isinstance(event, Event) and event.warning is None
