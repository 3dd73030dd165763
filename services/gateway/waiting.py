"""How tasks of one event loop wait for each other, and which error a group of them ended with.

Knows nothing of sessions.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Changes:
    """Something changes now and then; whoever waits for a condition looks at it again."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Says that something changed."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once ``condition`` holds; what it raises, this raises."""
        while not condition():
            await self.next()

    async def next(self) -> None:
        """Returns after the next change."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)


def first_cause(group: BaseException) -> BaseException:
    """One of the errors that ended a group of tasks together; they end for one cause."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


@asynccontextmanager
async def ungrouped() -> AsyncIterator[None]:
    """Raises the cause of an error group that leaves the body, instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise first_cause(group) from None
