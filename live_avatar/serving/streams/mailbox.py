"""A bounded queue between tasks of one event loop that can be closed and has a lane for what must not wait.

Knows nothing of what it holds.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def always() -> bool:
    """The permission that nothing has to give."""
    return True


class MailboxClosedError(Exception):
    """The mailbox takes and gives nothing any more."""


class Mailbox(Generic[T]):
    """First in, first out; ``put`` waits for room, ``post`` and ``post_urgent`` never do.

    Whoever posts must be bounded by other means (for example: once per session).  Closing drops what is inside and
    wakes everyone who waits.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._urgent: deque[T] = deque()
        self._items: deque[T] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._urgent) + len(self._items)

    def __iter__(self) -> Iterator[T]:
        """The items in the order in which they will be taken."""
        return iter((*self._urgent, *self._items))

    @property
    def closed(self) -> bool:
        """Nothing can be put in or taken out any more."""
        return self._closed

    async def room(self, permitted: Callable[[], bool] = always) -> None:
        """Returns once an item may be posted within the bound and ``permitted`` is true.

        Whoever makes ``permitted`` true calls ``notify``.

        Raises:
            MailboxClosedError: the mailbox is closed.
        """
        while not self._closed and (len(self._items) >= self._size or not permitted()):
            self._room.clear()
            await self._room.wait()
        self._check_open()

    def notify(self) -> None:
        """Makes those who wait for room look again."""
        self._room.set()

    async def put(self, item: T) -> None:
        """Appends an item as soon as there is room; raises MailboxClosedError when closed."""
        await self.room()
        self.post(item)

    def post(self, item: T) -> None:
        """Appends an item at once, even beyond the bound; raises MailboxClosedError when closed."""
        self._check_open()
        self._items.append(item)
        self._filled.set()

    def post_urgent(self, item: T) -> None:
        """Puts an item behind other urgent ones and before all others; raises MailboxClosedError when closed."""
        self._check_open()
        self._urgent.append(item)
        self._filled.set()

    async def put_urgent(self, item: T) -> None:
        """``post_urgent``, as soon as fewer urgent items wait than the bound; raises MailboxClosedError when closed."""
        while not self._closed and len(self._urgent) >= self._size:
            self._room.clear()
            await self._room.wait()
        self.post_urgent(item)

    def withdraw(self, unwanted: Callable[[T], bool]) -> None:
        """Drops the items that are ``unwanted``, urgent ones aside."""
        kept = deque(item for item in self._items if not unwanted(item))
        if len(kept) < len(self._items):
            self._items = kept
            self._room.set()

    async def get(self) -> T:
        """Takes the next item, waiting for it; raises MailboxClosedError when closed."""
        while not self._closed and not self._urgent and not self._items:
            self._filled.clear()
            await self._filled.wait()
        self._check_open()
        item = self._urgent.popleft() if self._urgent else self._items.popleft()
        self._room.set()
        return item

    async def next(self, timeout_s: float) -> T | None:
        """``get``, or None where nothing comes for ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.get()
        except TimeoutError:
            return None

    def close(self) -> None:
        """Drops everything and wakes everyone.  Idempotent."""
        self._closed = True
        self._urgent.clear()
        self._items.clear()
        self._filled.set()
        self._room.set()

    def _check_open(self) -> None:
        if self._closed:
            raise MailboxClosedError
