"""What a failed call raises.

Knows gRPC statuses and google.rpc details.  Stands apart from the services' errors, which need more than the client's
installation.
"""

from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from live_avatar.client.tls_faults import tls_fault
from live_avatar.proxies import Proxy

_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_STATUS_KEY = "grpc-status-details-bin"
_TOO_LARGE = "message larger than max"


class AvatarError(Exception):
    """A call that the gateway refused or that did not reach it.

    Args:
        code: gRPC status code.
        reason: word that a program can compare, such as IMAGE_UNREADABLE; the code's name where the server gave none.
        message: a sentence for a person.
        metadata: further facts by name.
        retry_after_s: seconds after which another attempt makes sense; None: it makes none.
        quota: the quota that the call breaks, and its number, as a sentence; empty: none.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        quota: str = "",
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.quota = quota


def from_status(status: status_pb2.Status) -> AvatarError:
    """The error that a rich status describes."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info, retry = error_details_pb2.ErrorInfo(reason=code.name), error_details_pb2.RetryInfo()
    broken = error_details_pb2.QuotaFailure()
    for detail in status.details:
        for known in (info, retry, broken):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
    delay_s = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    quota = broken.violations[0].description if broken.violations else ""
    return AvatarError(code, info.reason, status.message, info.metadata, delay_s, quota)


def from_rpc_error(error: grpc.aio.AioRpcError, proxy: Proxy | None = None) -> AvatarError:
    """The error behind a failed call, with the server's reason where it gave one.

    Args:
        error: as gRPC raised it.
        proxy: what stood between, for a call that reached nobody.
    """
    status = _rich_status(error)
    if status is not None:
        return from_status(status)
    code, message = error.code(), error.details() or error.code().name
    if proxy is not None and code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        remedy = "name the gateway's host in no_proxy to go without it"
        message = f"a proxy from the environment was in the way, {proxy} ({remedy}): {message}"
    elif code is grpc.StatusCode.UNAVAILABLE and (fault := tls_fault(message)):
        return AvatarError(code, "TLS_FAILED", f"{fault}: {message}")
    # The transport refuses what is far too large itself, and says so in these words alone.
    too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in message
    return AvatarError(code, "MESSAGE_TOO_LARGE" if too_large else code.name, message)


def _rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """The status that the server sent with its reason.

    Its code counts: where a proxy resets a call that the server has ended, gRPC's own is CANCELLED.
    """
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None
