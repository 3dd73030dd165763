"""How a stream that broke is resumed: which errors allow it, for how long it is tried, and what is already there.

Knows messages of the public API; nothing of calls.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator

import grpc

from live_avatar.client.errors import AvatarError
from live_avatar.v1 import avatar_service_pb2 as api

RESUME_S = 30.0
"""How long a stream is tried to be resumed; by default a gateway keeps a session without its client for as long."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_LONGEST_HINT_S = 5.0
"""Longest pause that a server can ask for."""
_BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
"""Codes of a line that breaks, where the server says no more."""
_RESUMABLE = frozenset({"DRAINING", "GATEWAY_LOST", "LEASE_LOST", "SERVER_SILENT", "SESSION_MOVED", "SLOW_CONSUMER"})
"""Reasons of a server whose sessions go on."""

_Response = api.StreamAvatarResponse
_EventKey = tuple[int, str, int, int]


def is_resumable(error: AvatarError) -> bool:
    """Whether the session may go on although its stream ended with ``error``."""
    return error.reason in _RESUMABLE or (error.code in _BROKEN and error.reason == error.code.name)


def is_worth_another_attempt(error: AvatarError) -> bool:
    """Whether a session may be reached later although an attempt to resume its stream ended with ``error``."""
    return error.code is grpc.StatusCode.UNAVAILABLE or error.retry_after_s is not None or is_resumable(error)


def hinted_pause_s(error: AvatarError) -> float:
    """Seconds that a server which refused an attempt wants to be left alone, within bounds."""
    return min(error.retry_after_s or 0.0, _LONGEST_HINT_S)


def pauses(resume_s: float = RESUME_S) -> Iterator[float]:
    """Seconds to wait before each attempt, growing, until ``resume_s`` seconds have passed."""
    ends_at, pause_s = time.monotonic() + resume_s, _FIRST_PAUSE_S
    yield 0.0
    while time.monotonic() + pause_s < ends_at:
        yield pause_s * random.uniform(0.5, 1.0)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class Position:
    """What a client has received of a session, over all its streams."""

    def __init__(self) -> None:
        self.handle = ""
        """Newest; empty: the session ends with its stream."""
        self._is_resumed = False
        """Something may come twice."""
        self._next_frame = 0
        self._tail_block = -1
        """Block of the newest unit without a frame."""
        self._audio_ns = 0
        self._events: Counter[_EventKey] = Counter()
        """Received since the handle."""
        self._repeated: Counter[_EventKey] = Counter()
        """Those of them that come again in a resumed stream."""

    def note_handle(self, handle: str, next_block: int = 0) -> None:
        """A newer handle came, which goes on with ``next_block``; something of that may have come before."""
        self.handle = handle
        self._events, self._repeated = (
            Counter({key: count for key, count in events.items() if next_block and key[-1] >= next_block})
            for events in (self._events, self._repeated)
        )

    def rewind(self) -> None:
        """What came since the handle, in whichever stream, comes again."""
        self._repeated += self._events
        self._events.clear()
        self._is_resumed = True

    def is_new(self, response: _Response) -> bool:
        """Whether a response has not been received before; it counts as received from now on."""
        return self._receive(response) or not self._is_resumed

    def _receive(self, response: _Response) -> bool:
        match response.WhichOneof("payload"):
            case "video_unit":
                return self._is_new_unit(response.video_unit)
            case "audio_unit":
                end_ns = response.audio_unit.span.end_time.ToNanoseconds()
                is_new, self._audio_ns = end_ns > self._audio_ns, max(self._audio_ns, end_ns)
                return is_new
            case "event":
                return self._is_new_event(response.event)
        return True

    def _is_new_unit(self, unit: _Response.VideoUnit) -> bool:
        if not unit.frame_count:
            is_new, self._tail_block = unit.block_index > self._tail_block, unit.block_index
            return is_new
        end = unit.first_frame_index + unit.frame_count
        is_new, self._next_frame = end > self._next_frame, max(self._next_frame, end)
        return is_new

    def _is_new_event(self, event: _Response.Event) -> bool:
        key = (event.kind, event.utterance_id, event.media_time.ToNanoseconds(), event.block_index)
        self._events[key] += 1
        if self._repeated[key]:
            self._repeated[key] -= 1
            return False
        return True
