"""How often each service may be started again.

Counts within a time, so that one crash a day never ends a pipeline and one that cannot run does so soon.  Arithmetic on
times that the caller measures, in seconds.
"""

from collections import defaultdict, deque

from live_avatar.limits import MAX_RESTARTS, RESTART_WINDOW_S

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0


class Restarts:
    """The restarts of the last ``RESTART_WINDOW_S`` seconds, by service."""

    def __init__(self) -> None:
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def count(self, name: str, now_s: float) -> int:
        """How often ``name`` was started again lately."""
        times = self._times[name]
        while times and times[0] <= now_s - RESTART_WINDOW_S:
            times.popleft()
        return len(times)

    def next_pause_s(self, name: str, now_s: float) -> float | None:
        """Notes a restart; returns how long to wait before it, or None where ``name`` had its share already."""
        count = self.count(name, now_s)
        if count >= MAX_RESTARTS:
            return None
        self._times[name].append(now_s)
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (count - 1)) if count else 0.0
