"""Faults of processes: who must know knows in time, and what was held is freed in time."""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from live_avatar.client import AvatarError
from live_avatar.launcher.child import Child
from live_avatar.serving.errors import ServiceError

LOG = logging.getLogger(__name__)
KNOWN_S, FREED_S = 15.0, 30.0
"""Far more than it takes (0.1 s killed, 2.7 s frozen, 3 s, as the log says), since other work on the machine delays
it; far less than gRPC's own minute."""
STEADY_S = 2.0
"""A service that thaws is connected again before it learns that its neighbour gave it up; that takes a heartbeat."""
T = TypeVar("T")


class Fault:
    """The clock of a fault that has just been made."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    async def known(self, news: Awaitable[T]) -> T:
        """What ``news`` yields, within ``KNOWN_S``."""
        async with asyncio.timeout(KNOWN_S):
            result = await news
        LOG.info("%s: known after %.2f s", self._what, self._elapsed_s)
        return result

    async def freed(self, freeing: Awaitable[None]) -> None:
        """Returns with ``freeing``, within ``FREED_S`` of the fault."""
        async with asyncio.timeout(FREED_S - self._elapsed_s):
            await freeing
        LOG.info("%s: all is free after %.2f s", self._what, self._elapsed_s)


@contextmanager
def thawed_afterwards(child: Child) -> Iterator[None]:
    """Lets a process that a test freezes go on, at the end at the latest."""
    try:
        yield
    finally:
        child.process.send_signal(signal.SIGCONT)


def check_stage_lost(error: AvatarError | ServiceError | None) -> None:
    """Whoever uses a pipeline whose service is gone is told so."""
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STAGE_LOST")
