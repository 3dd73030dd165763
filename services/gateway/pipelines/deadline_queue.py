"""Whose block enters a pipeline next, where several sessions want to and credits are scarce.

Earliest due first; those without a due time after all that have one, in the order they came.  Knows times and waits;
nothing of blocks.
"""

import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

from live_avatar.services.gateway.waiting import Condition

NO_HURRY_NS = 2**63 - 1
"""Due time of a block that nobody waits for at a certain time."""


class DeadlineQueue:
    """The entrance of one pipeline; one block passes at a time.

    Args:
        open_now: whether a block could be sent at once.  Whoever changes the answer calls ``notify``.
    """

    def __init__(self, open_now: Callable[[], bool]) -> None:
        self._open_now = open_now
        self._waiting: list[tuple[int, int]] = []
        self._numbers = count()
        self._taken = False
        self._changed = Condition()

    def notify(self) -> None:
        """The entrance may have opened."""
        if self._waiting:
            self._changed.notify()

    @asynccontextmanager
    async def slot(self, due_ns: int) -> AsyncIterator[None]:
        """Waits for the turn of a block that is due at ``due_ns``; the body sends it."""
        me = (due_ns, next(self._numbers))
        heapq.heappush(self._waiting, me)
        try:
            await self._changed.wait_for(lambda: self._waiting[0] == me and not self._taken and self._open_now())
        finally:
            self._waiting.remove(me)
            heapq.heapify(self._waiting)
            self._changed.notify()
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
            self._changed.notify()
