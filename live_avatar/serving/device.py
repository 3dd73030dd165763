"""The one thread that does a service's work.

Knows whether a call runs and since when; knows nothing of the calls.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from live_avatar.serving.errors import as_service_error

T = TypeVar("T")


class Device:
    """Runs calls in an executor with one thread, which the owner of the executor may use for more.

    Args:
        executor: with one worker thread.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._unfinished = 0
        self._since: float = 0.0

    @property
    def age_s(self) -> float:
        """Seconds since the running call began; 0 when none runs."""
        return time.monotonic() - self._since if self._unfinished else 0.0

    async def run(self, call: Callable[[], T]) -> T:
        """Runs a call and waits for it; calls of one ``Device`` come one after the other.

        Raises:
            ServiceError: as the call raised it, or INTERNAL for any other exception, which is logged.
        """
        return await outcome(self.start(call))

    def start(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        """Queues a call behind those before it, at once; ``outcome`` waits for it."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, _finite, call)
        if not self._unfinished:
            self._since = time.monotonic()
        self._unfinished += 1
        future.add_done_callback(self._finished)
        return future

    def submit(self, call: Callable[[], object]) -> None:
        """Queues a call whose result nobody waits for."""
        self._executor.submit(call)

    def _finished(self, _: "asyncio.Future[T]") -> None:
        """The call that ran is over; the one behind it has begun."""
        self._unfinished -= 1
        self._since = time.monotonic()


async def outcome(started: "asyncio.Future[T]") -> T:
    """What a call gave that a ``Device`` was given; see ``Device.run``."""
    await asyncio.wait([started])
    error = started.exception()
    if error is not None:
        raise as_service_error(error) from error
    return started.result()


def _finite(call: Callable[[], T]) -> T:
    try:
        return call()
    except StopIteration as error:
        # A future cannot carry this one: whoever waits for it would wait for ever.
        raise RuntimeError("an iterator ended too early") from error
