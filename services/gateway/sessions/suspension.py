"""Why a session is without a pipeline, whether it may be, and for how long.

Knows errors and times alone.
"""

from collections import deque

from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.store.store import GATEWAY_LOST
from live_avatar.serving.errors import DRAINING, SESSION_NOT_FOUND, STAGE_LOST, ServiceError, stage_lost

LOSSES = frozenset({STAGE_LOST, DRAINING, SESSION_NOT_FOUND, "VIDEO_UNCLAIMED", GATEWAY_LOST})
"""Reasons with which a pipeline ends a session that is itself in order."""
_PERIOD_S = 60.0


class Suspension:
    """That of one session; ``cause`` is None while it has a pipeline.

    Args:
        limits: ``max_losses_per_minute`` holds here.
    """

    def __init__(self, limits: Limits) -> None:
        self._losses: deque[float] = deque(maxlen=limits.max_losses_per_minute)
        self.cause: ServiceError | None = None
        """What the pipeline was lost for."""
        self.refusal: ServiceError | None = None
        """Why the session may not be suspended once more."""

    def begin(self, error: ServiceError, now: float) -> bool:
        """Suspends the session for ``error`` at ``now`` seconds; returns False where it must end instead."""
        if error.reason not in LOSSES:
            return False
        if len(self._losses) == self._losses.maxlen and now - self._losses[0] < _PERIOD_S:
            self.refusal = stage_lost(f"the session lost its pipeline {len(self._losses) + 1} times within a minute")
            return False
        self._losses.append(now)
        self.cause = error
        return True

    def end(self) -> None:
        """The session goes on."""
        self.cause = None

    def expire(self) -> ServiceError:
        """The error with which the session ends where no pipeline goes on with it."""
        assert self.cause is not None, "the session is suspended"
        return self.cause
