"""How tasks of one event loop wait for each other, and which error a group of them ended with.

Knows nothing of sessions.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from live_avatar.serving.cancellation import first_cause


class Condition:
    """Lets tasks wait until something holds; whoever changes what it depends on calls ``notify``.

    The predicate is evaluated where the change is made: most changes concern one of several waiting tasks, and to wake
    the others in vain costs more than to ask for them.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def notify(self) -> None:
        """Wakes the tasks whose predicate holds now."""
        for waiter, ends in self._waiting.items():
            if not waiter.done() and ends():
                waiter.set_result(None)

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Returns once ``predicate`` holds, which must not raise; it may have ceased to hold before the caller runs."""
        while not predicate():
            await self._wait(predicate)

    async def wait(self) -> None:
        """Returns after the next ``notify``."""
        await self._wait(lambda: True)

    async def _wait(self, ends: Callable[[], bool]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = ends
        try:
            await waiter
        finally:
            del self._waiting[waiter]


class KeyedLocks:
    """A lock for each name that somebody uses."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def locked(self, name: str) -> AsyncIterator[None]:
        """While the body runs, no other with the same name does."""
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(name)
            if users > 1:
                self._locks[name] = (lock, users - 1)


async def run_until(
    ends: Callable[[], bool], changed: Condition, work: Coroutine[Any, Any, None]
) -> BaseException | None:
    """Runs ``work``, and cancels it where ``ends`` holds before.

    Args:
        ends: whether nobody needs the work any more.
        changed: notified by whoever changes that.
        work: what is done.

    Returns:
        What the work raised; None where it returned or was cancelled.
    """
    working = asyncio.create_task(work)
    ending = asyncio.create_task(changed.wait_for(ends))
    try:
        await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.cancel()
        working.cancel()
        await asyncio.wait([working])
    return None if working.cancelled() else working.exception()


@asynccontextmanager
async def ungrouped() -> AsyncIterator[None]:
    """Raises the cause of an error group that leaves the body, instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise first_cause(group) from None
