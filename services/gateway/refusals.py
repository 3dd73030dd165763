"""Errors that several rooms of the gateway raise, and their reasons.

Knows codes and words; nothing of requests.
"""

from typing import NoReturn

import grpc

from live_avatar.serving.errors import ServiceError

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
AUDIO_FORMAT_UNSUPPORTED = "AUDIO_FORMAT_UNSUPPORTED"
MESSAGE_OUT_OF_ORDER = "MESSAGE_OUT_OF_ORDER"
CAUSE = "cause"
"""Metadata of SESSION_EXPIRED: IDLE or MAX_DURATION."""


def refuse(reason: str, message: str, field: str) -> NoReturn:
    """Raises INVALID_ARGUMENT about ``field``."""
    raise ServiceError(INVALID, reason, message, field=field)


def not_yet_served(field: str) -> ServiceError:
    """The answer to a request that uses a part of the contract that is still to come."""
    return ServiceError(
        grpc.StatusCode.UNIMPLEMENTED, "NOT_YET_SERVED", f"{field} is not served yet", {"field": field}, field=field
    )


def expired(message: str, cause: str = "") -> ServiceError:
    """The answer to those who use a session that has ended; ``cause`` is the reason of the ``GoAway`` before it."""
    metadata = {CAUSE: cause} if cause else {}
    return ServiceError(PRECONDITION, "SESSION_EXPIRED", message, metadata)


def slow_consumer(message: str) -> ServiceError:
    """The answer to a client that does not take its video."""
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", f"{message}; read it and grant credits")
