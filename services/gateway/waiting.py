"""How tasks of one event loop wait for each other, and which error a group of them ended with.

Knows nothing of sessions.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Changes:
    """Something changes now and then; whoever waits for a condition looks at it again.

    The look is taken where the change is made: most changes concern one of several waiting tasks, and to wake the
    others in vain costs more than to ask for them.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def notify(self) -> None:
        """Says that something changed."""
        for waiter, ends in self._waiting.items():
            if not waiter.done() and ends():
                waiter.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once ``condition`` holds, which must not raise; it may have ceased to hold before the caller runs."""
        while not condition():
            await self._wait(condition)

    async def next(self) -> None:
        """Returns after the next change."""
        await self._wait(lambda: True)

    async def _wait(self, ends: Callable[[], bool]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = ends
        try:
            await waiter
        finally:
            del self._waiting[waiter]


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
