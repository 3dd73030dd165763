"""Answers to callers whose credential does not let them in.

Knows codes and words; none of them holds any part of a credential.
"""

import grpc

from live_avatar.serving.errors import ServiceError

_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def credential_missing(message: str = "this call needs the metadata `authorization: Bearer ...`") -> ServiceError:
    """The answer to a call without a credential."""
    return ServiceError(_UNAUTHENTICATED, "CREDENTIAL_MISSING", message)


def credential_invalid(message: str = "the credential is not valid") -> ServiceError:
    """The answer to a credential that is malformed, unknown or wrong; the default message says no more than that."""
    return ServiceError(_UNAUTHENTICATED, "CREDENTIAL_INVALID", message)


def credential_expired() -> ServiceError:
    """The answer to a credential that was valid once."""
    return ServiceError(_UNAUTHENTICATED, "CREDENTIAL_EXPIRED", "the credential has expired")


def key_revoked() -> ServiceError:
    """The answer to whoever presents the right secret of a key that was revoked."""
    return ServiceError(_UNAUTHENTICATED, "KEY_REVOKED", "the API key was revoked")


def too_many_failures(retry_after_s: float) -> ServiceError:
    """The answer to further unknown credentials from an address that sent too many bad ones."""
    message = "too many credentials from this address were not valid"
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_FAILURES", message, retry_after_s=retry_after_s)


def method_denied(method: str) -> ServiceError:
    """The answer to a call of a method that has no rule."""
    return ServiceError(grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED", f"{method[:200]} may not be called")
