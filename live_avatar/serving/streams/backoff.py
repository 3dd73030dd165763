"""How long to wait before the next attempt to reach a peer.

Knows numbers alone.
"""

import random


class Backoff:
    """Waits of ``min_s`` to ``max_s`` seconds, each up to twice the one before.

    Drawn from the upper half, so that callers that lost one peer together do not come back together.
    """

    def __init__(self, min_s: float, max_s: float) -> None:
        self._min_s = self._next_s = min_s
        self._max_s = max_s

    def reset(self) -> None:
        """Begins anew with ``min_s``: the peer was reached."""
        self._next_s = self._min_s

    def next_s(self) -> float:
        """Seconds to wait before the next attempt."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, self._max_s)
        return wait_s
