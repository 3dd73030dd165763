"""How a call that is passed on fails, beside the ways in which its session fails.

Knows errors alone.
"""

import grpc

from live_avatar.serving.errors import ServiceError

SESSION_MOVED = "SESSION_MOVED"


class HolderLostError(Exception):
    """The gateway that should hold the session does not answer; nothing has been answered to the caller."""


class SessionMovedError(Exception):
    """The gateway that was called does not hold the session."""


def session_moved() -> ServiceError:
    """The answer to a call that another gateway passed on, to a gateway that does not hold the session."""
    message = "the session is on its way from one gateway to another"
    return ServiceError(grpc.StatusCode.UNAVAILABLE, SESSION_MOVED, message, retry_after_s=0.1)
