"""Places by name: so many of one name are in use at the same time, and further ones wait.

Knows nothing of what they are for.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Places:
    """Bounds for each of many names, which are forgotten when nobody uses or awaits them.

    Args:
        most: places of one name.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: dict[str, tuple[asyncio.Semaphore, int]] = {}
        """The places, and how many use or await them."""

    def __len__(self) -> int:
        return len(self._names)

    @asynccontextmanager
    async def one(self, name: str) -> AsyncIterator[None]:
        """Holds a place of ``name`` within the body, waiting for it."""
        places, users = self._names.get(name, (asyncio.Semaphore(self._most), 0))
        self._names[name] = places, users + 1
        try:
            async with places:
                yield
        finally:
            places, users = self._names.pop(name)
            if users > 1:
                self._names[name] = places, users - 1


class Turns:
    """Bounds heavy work: one turn of a name at a time, and so many in all; others wait, each name for itself.

    Args:
        most: turns at the same time.
    """

    def __init__(self, most: int) -> None:
        self._names = Places(1)
        self._all = asyncio.Semaphore(most)

    @asynccontextmanager
    async def one(self, name: str) -> AsyncIterator[None]:
        """Has a turn of ``name`` within the body, waiting for it."""
        async with self._names.one(name), self._all:
            yield
