"""What interrupts a session and does not end it, in plain words.

Knows the records of results; nothing of terminals.
"""

from collections.abc import Callable

from live_avatar.client.results import DISCONTINUITY, Event, GoAway, Result, StreamLost, StreamResumed

Report = Callable[[str], None]
"""Receives a sentence on each interruption, when it begins and when it is over."""

_OF_GATEWAY = ("GATEWAY_LOST", "LEASE_LOST", "SESSION_MOVED")
"""Causes of a discontinuity at a gateway; all others lie in a pipeline."""


def describe_break(result: Result) -> str | None:
    """A sentence on what interrupts the session; None where ``result`` is something else."""
    match result:
        case StreamLost():
            return f"the stream broke ({result.cause.message}); it is being resumed"
        case StreamResumed():
            attempts = "1 attempt" if result.attempts == 1 else f"{result.attempts} attempts"
            return f"the stream goes on after {result.after_s:.1f} s, {attempts}"
        case GoAway():
            what = "this stream, and the session goes on in another" if result.resumable else "the session"
            return f"the gateway ends {what}, in {result.time_left_s:.0f} s ({result.reason})"
        case Event() if result.kind == DISCONTINUITY:
            return _describe_discontinuity(result)
    return None


def _describe_discontinuity(event: Event) -> str:
    reason = event.warning.reason if event.warning is not None else ""
    lost = "gateway" if reason in _OF_GATEWAY else "pipeline"
    cause = f" ({reason})" if reason else ""
    return f"the session left its {lost}{cause}; another goes on at {event.media_time_ns / 1e9:.2f} s"
