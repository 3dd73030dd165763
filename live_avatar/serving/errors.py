"""The one error type of the services, how it travels, and what the loss of a peer becomes.

Knows gRPC status codes, the reasons programs may read and google.rpc details; knows nothing of streams or sessions'
work.  Code that fails on purpose raises ``ServiceError``; ``interceptors.py`` turns it into a status, and the hop
turns it into ``SessionFailed``.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksResponse

DOMAIN = "live-avatar"
INTERNAL = "INTERNAL"
STAGE_LOST = "STAGE_LOST"
CAPACITY_EXHAUSTED = "CAPACITY_EXHAUSTED"
DRAINING = "DRAINING"
STALE_EPOCH = "STALE_EPOCH"
SESSION_NOT_FOUND = "SESSION_NOT_FOUND"

# Faults that pass by themselves: what a caller should wait before it tries again, in seconds.
RETRY_AFTER_S: Mapping[str, float] = {
    CAPACITY_EXHAUSTED: 5.0,
    "KV_MEMORY_EXHAUSTED": 5.0,
    STAGE_LOST: 1.0,
    DRAINING: 1.0,
}

_BROKEN = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
)
"""Codes under which gRPC reports a peer that died, a reset or the end of a connection."""

_CODES: Mapping[object, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, kw_only=True)
class QuotaViolation:
    """A quota that a request breaks; becomes a google.rpc.QuotaFailure."""

    subject: str
    """Whose quota it is."""
    description: str
    """Which quota, and its number."""


class ServiceError(Exception):
    """A failure with a gRPC status code and a reason that a program can read.

    Args:
        code: gRPC status code.
        reason: UPPER_SNAKE word of at most 63 letters; part of the API.
        message: one sentence for a person; never media, prompts or secrets.
        metadata: further strings a program may read.
        retry_after_s: seconds after which another attempt makes sense; default by reason, see ``RETRY_AFTER_S``.
        field: name of the request's field at fault; becomes a google.rpc.BadRequest.
        detail: for our log alone, such as addresses and what a library says; travels nowhere.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        field: str | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(f"{code.name}/{reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message or reason
        self.metadata = dict(metadata or {})
        self.retry_after_s = RETRY_AFTER_S.get(reason) if retry_after_s is None else retry_after_s
        self.field = field
        self.detail = detail
        self.violation: QuotaViolation | None = None
        """The quota at fault."""


def stage_lost(message: str, detail: str = "") -> ServiceError:
    """The error of a session whose pipeline lost a service."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, STAGE_LOST, message, detail=detail)


def draining(message: str) -> ServiceError:
    """The error of what a process that was asked to end does not do any more."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, DRAINING, message)


def busy(message: str) -> ServiceError:
    """The error of a request for which there is no room or no time now, though everything works."""
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, CAPACITY_EXHAUSTED, message)


def as_service_error(error: BaseException) -> ServiceError:
    """The error to show for any failure; an unexpected one is logged with its traceback and shown without its text.

    Raises what is no ``Exception`` (interrupt, exit), since nobody may survive that.
    """
    if isinstance(error, ServiceError):
        return error
    if not isinstance(error, Exception):
        raise error
    structlog.get_logger(__name__).error("unexpected error", exc_info=error)
    return ServiceError(grpc.StatusCode.INTERNAL, INTERNAL, "an unexpected error; the service's log has the details")


def code_of(value: object) -> grpc.StatusCode:
    """The status code for a number or a code; UNKNOWN for anything else."""
    if isinstance(value, grpc.StatusCode):
        return value
    return _CODES.get(value, grpc.StatusCode.UNKNOWN)


def to_status(error: ServiceError) -> status_pb2.Status:
    """The rich status: an ErrorInfo; RetryInfo where waiting helps; BadRequest and QuotaFailure say what is broken."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.violation is not None:
        subject, description = error.violation.subject, error.violation.description
        broken = error_details_pb2.QuotaFailure.Violation(subject=subject, description=description)
        status.details.add().Pack(error_details_pb2.QuotaFailure(violations=[broken]))
    return status


def from_status(status: status_pb2.Status) -> ServiceError:
    """The error that a rich status was made of; without ErrorInfo the reason is the name of the code."""
    code = code_of(status.code)
    info = error_details_pb2.ErrorInfo(reason=code.name)
    retry = error_details_pb2.RetryInfo()
    bad, quota = error_details_pb2.BadRequest(), error_details_pb2.QuotaFailure()
    for detail in status.details:
        for message in (info, retry, bad, quota):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    delay = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    field = bad.field_violations[0].field if bad.field_violations else None
    error = ServiceError(code, info.reason, status.message, dict(info.metadata), delay, field)
    if quota.violations:
        broken = quota.violations[0]
        error.violation = QuotaViolation(subject=broken.subject, description=broken.description)
    return error


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    status: status_pb2.Status | None = rpc_status.from_call(error)  # type: ignore[arg-type]  # it needs no more of it
    return status


def line_broke(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call failed because nobody answered it, and not because the other side refused it."""
    return error.code() in _BROKEN and not _is_ours(_status_of(error))


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str = "the service") -> ServiceError:
    """The error behind a failed call: as ``peer`` gave it, or STAGE_LOST where the line to it broke.

    What a service raises carries our ErrorInfo, its INTERNAL too; without that, gRPC reports the end of a connection.
    """
    status = _status_of(error)
    if line_broke(error):
        return stage_lost(f"the line to {peer} broke ({error.code().name})", error.details() or "")
    if status is None:
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    return from_status(status)


@contextmanager
def calling(peer: str) -> Iterator[None]:
    """Makes ServiceErrors of all that calls to ``peer`` raise inside; a cancellation of the running task passes.

    A call is also cancelled from within: its channel is closed while somebody else waits for it.
    """
    task = asyncio.current_task()
    assert task is not None, "calls are made in tasks"
    before = task.cancelling()
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from error
    except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
        raise stage_lost(f"the line to {peer} broke", str(error)) from error
    except asyncio.CancelledError:
        if task.cancelling() > before:
            raise
        raise stage_lost(f"the line to {peer} was closed") from None


def _is_ours(status: status_pb2.Status | None) -> bool:
    """Whether one of our services gave the status."""
    info = error_details_pb2.ErrorInfo()
    details = [] if status is None else status.details
    return any(detail.Unpack(info) and info.domain == DOMAIN for detail in details if detail.Is(info.DESCRIPTOR))


def session_failed(key: SessionKey, error: ServiceError, service: str) -> StreamBlocksResponse:
    """The message that reports to upstream that a session is closed at ``service`` and everything below it."""
    return StreamBlocksResponse(
        session_failed=StreamBlocksResponse.SessionFailed(
            key=key, code=error.code.value[0], reason=error.reason, message=error.message, service=service
        )
    )


def from_session_failed(failed: StreamBlocksResponse.SessionFailed) -> ServiceError:
    """The error that ended a session; its metadata name the service at fault."""
    metadata = {"service": failed.service} if failed.service else {}
    code = code_of(failed.code)
    return ServiceError(code, failed.reason or code.name, failed.message, metadata)
