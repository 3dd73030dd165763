"""Why sessions ended that nobody had opened yet, for those who come a moment later.

Knows errors and ids; nothing of sessions.
"""

from collections import OrderedDict

from live_avatar.serving.errors import ServiceError

_KEPT = 1_000


class Failures:
    """The last faults that pass by themselves, such as the loss of a service, by session; the oldest are forgotten."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, ServiceError] = OrderedDict()

    def note(self, session_id: str, failure: ServiceError | None) -> None:
        """Keeps what ended a session, where another attempt makes sense."""
        if failure is not None and failure.retry_after_s is not None:
            self._failures[session_id] = failure
            if len(self._failures) > _KEPT:
                self._failures.popitem(last=False)

    def check(self, session_id: str) -> None:
        """Raises what ended a session, where it was kept."""
        if session_id in self._failures:
            raise self._failures[session_id]
