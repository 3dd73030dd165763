"""Errors as statuses and as SessionFailed, there and back."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.serving.errors import (
    ServiceError,
    as_service_error,
    calling,
    from_rpc_error,
    from_session_failed,
    from_status,
    session_failed,
    stage_lost,
    to_status,
)


@pytest.mark.parametrize(
    "error",
    [
        ServiceError(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", "no such session"),
        ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_UNREADABLE", "not an image", {"format": "svg"}, None, "image"
        ),
        ServiceError(grpc.StatusCode.UNAVAILABLE, "DRAINING", "going", retry_after_s=2.5),
        stage_lost("stage 2 is gone"),
    ],
)
def test_a_status_reports_all_that_the_error_knew(error: ServiceError) -> None:
    back = from_status(to_status(error))
    for name in ("code", "reason", "message", "metadata", "retry_after_s", "field"):
        assert getattr(back, name) == getattr(error, name), name


def test_details_are_of_the_types_clients_know() -> None:
    error = ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "KV_MEMORY_EXHAUSTED", "full", field="width")
    details = to_status(error).details
    names = [detail.TypeName() for detail in details]
    assert names == ["google.rpc.ErrorInfo", "google.rpc.RetryInfo", "google.rpc.BadRequest"]
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    for detail, message in zip(details, (info, retry, bad), strict=True):
        detail.Unpack(message)
    assert (info.domain, info.reason) == ("live-avatar", "KV_MEMORY_EXHAUSTED")
    assert retry.retry_delay.seconds == 5
    assert bad.field_violations[0].field == "width"


def test_an_error_that_waiting_does_not_help_has_no_retry_info() -> None:
    [detail] = to_status(ServiceError(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")).details
    assert detail.TypeName() == "google.rpc.ErrorInfo"


def test_a_status_without_details_still_has_a_reason() -> None:
    error = from_status(status_pb2.Status(code=14, message="connection refused"))
    assert (error.code, error.reason, error.message) == (
        grpc.StatusCode.UNAVAILABLE,
        "UNAVAILABLE",
        "connection refused",
    )
    assert from_status(status_pb2.Status(code=4711)).code is grpc.StatusCode.UNKNOWN


def failed_call(code: grpc.StatusCode, details: str, ours: ServiceError | None = None) -> grpc.aio.AioRpcError:
    """A call that ended with a status of the transport's, or with one of ours."""
    trailing = grpc.aio.Metadata()
    if ours is not None:
        trailing.add("grpc-status-details-bin", to_status(ours).SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)


def test_a_failed_call_without_details_gives_its_code() -> None:
    error = from_rpc_error(failed_call(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
    assert (error.code, error.reason, error.message) == (
        grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", "Method not found!"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: ipv4:10.1.2.3:50051"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.INTERNAL, "Internal error from Core"),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
        (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8"),
    ],
)
def test_a_line_that_broke_is_a_lost_stage_whatever_grpc_calls_it(code: grpc.StatusCode, details: str) -> None:
    error = from_rpc_error(failed_call(code, details), "denoise-stage-0")
    assert (error.code, error.reason, error.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, "STAGE_LOST", 1.0)
    assert "denoise-stage-0" in error.message and details not in error.message and error.detail == details


def test_what_a_service_raised_itself_is_no_lost_stage() -> None:
    ours = ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", "the decoder's sink is no sink")
    error = from_rpc_error(failed_call(ours.code, ours.message, ours))
    assert (error.code, error.reason, error.message) == (ours.code, ours.reason, ours.message)


def test_a_call_that_is_cut_short_from_within_is_a_lost_stage_and_a_cancelled_task_is_none() -> None:
    async def wait(future: "asyncio.Future[None]") -> None:
        with calling("the decoder"):
            await future

    async def scenario() -> None:
        future = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(wait(future))
        await asyncio.sleep(0)
        future.cancel()  # as a channel does that is closed
        with pytest.raises(ServiceError, match="STAGE_LOST"):
            await waiting
        waiting = asyncio.create_task(wait(asyncio.get_running_loop().create_future()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())


def test_session_failed_there_and_back() -> None:
    sent = session_failed(SessionKey(session_id="a", epoch=3), stage_lost("stage 2 is gone"), "denoise-stage-1")
    assert (sent.session_failed.key.session_id, sent.session_failed.key.epoch) == ("a", 3)
    back = from_session_failed(sent.session_failed)
    assert (back.code, back.reason, back.message) == (grpc.StatusCode.UNAVAILABLE, "STAGE_LOST", "stage 2 is gone")
    assert back.metadata == {"service": "denoise-stage-1"} and back.retry_after_s == 1.0


def test_an_unexpected_error_keeps_its_text_to_itself() -> None:
    shown = as_service_error(KeyError("the prompt"))
    assert (shown.code, shown.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "prompt" not in str(shown)
    meant = stage_lost("as it is")
    assert as_service_error(meant) is meant


def test_an_interrupt_is_nobodys_error() -> None:
    with pytest.raises(KeyboardInterrupt):
        as_service_error(KeyboardInterrupt())
