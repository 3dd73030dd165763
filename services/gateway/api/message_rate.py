"""How fast one stream's messages are taken.

Reads a clock; knows nothing of messages.
"""

import asyncio
import time

_REST_S = 0.02
"""Whoever waits waits for what comes in so long, not for every single message."""


class MessageRate:
    """A token bucket: ``burst`` messages at once, ``per_s`` in the long run.

    Who sends more is not refused but read more slowly, until its own transport holds it back.
    """

    def __init__(self, per_s: int, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._left = self._burst
        self._at = time.monotonic()

    async def take(self) -> None:
        """Returns when the next message may be taken."""
        self._refill()
        if self._left < 1:
            await asyncio.sleep(max(_REST_S, (1 - self._left) / self._per_s))
            self._refill()
        self._left -= 1

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
