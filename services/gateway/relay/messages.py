"""Messages of a stream that are read only where this gateway serves it.

Knows bytes; what is in them is for others to say.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

from live_avatar.serving.interceptors import read_message


class Messages:
    """Those that a caller sends: an iterator of them, read; until the second is taken, the first can be taken again.

    Args:
        unread: as they come.
        read: makes a message of bytes.
    """

    def __init__(self, unread: AsyncIterator[bytes], read: Callable[[bytes], Any]) -> None:
        self.rest = aiter(unread)
        """Those that were not taken yet, unread."""
        self._read = read
        self._first: bytes | None = None
        self._is_due = False

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> Any:
        return read_message(self._read, await self.take())

    async def take(self) -> bytes:
        """The next message, unread; raises StopAsyncIteration where there is none."""
        if self._is_due and self._first is not None:
            self._is_due = False
            return self._first
        message = await anext(self.rest)
        self._first = message if self._first is None else b""
        return message

    def again(self) -> "Messages":
        """From the first message on."""
        self._is_due = self._first is not None
        return self


def as_bytes(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A serializer that also takes what another gateway has serialized."""

    def write(response: Any) -> bytes:
        return response if isinstance(response, bytes) else serialize(response)

    return write
