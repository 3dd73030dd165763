"""Streams that have not said whose they are: how long and how many may wait.

Knows callers by their addresses; nothing of sessions.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc

from live_avatar.serving.errors import ServiceError

T = TypeVar("T")


class UnopenedStreams:
    """The streams whose first message has not come.

    Where too many wait, a new one takes the place of the oldest of the caller that has most: who opens its stream at
    once is never kept out by those who do not.

    Args:
        most: that may wait at the same time.
        timeout_s: how long each may.
    """

    def __init__(self, most: int, timeout_s: float) -> None:
        self._most = most
        self._timeout_s = timeout_s
        self._waiting: dict[str, dict[asyncio.Timeout, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def first(self, peer: str, message: Awaitable[T]) -> T:
        """Waits for the first message of a stream of ``peer``.

        Raises:
            ServiceError: DEADLINE_EXCEEDED where it does not come in time, RESOURCE_EXHAUSTED where the stream had to
                make room for another.
        """
        timeout = asyncio.timeout(self._timeout_s)
        try:
            async with timeout:
                self._enter(peer, timeout)
                return await message
        except TimeoutError:
            if not timeout.expired():
                raise
            raise self._too_late(evicted=not self._holds(peer, timeout)) from None
        finally:
            self._remove(peer, timeout)

    def _too_late(self, *, evicted: bool) -> ServiceError:
        if evicted:
            message = f"{self._most} streams wait for their open"
            return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message, retry_after_s=1.0)
        message = f"no open came within {self._timeout_s:g} s"
        return ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "OPEN_MISSING", message, field="open")

    def _enter(self, peer: str, timeout: asyncio.Timeout) -> None:
        if len(self) >= self._most:
            crowd = max(self._waiting, key=lambda name: len(self._waiting[name]))
            oldest = next(iter(self._waiting[crowd]))
            self._remove(crowd, oldest)
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())
        self._waiting.setdefault(peer, {})[timeout] = None

    def _holds(self, peer: str, timeout: asyncio.Timeout) -> bool:
        return timeout in self._waiting.get(peer, {})

    def _remove(self, peer: str, timeout: asyncio.Timeout) -> None:
        of_peer = self._waiting.get(peer, {})
        of_peer.pop(timeout, None)
        if not of_peer:
            self._waiting.pop(peer, None)
