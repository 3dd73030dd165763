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
        self._began: float | None = None

    @property
    def age_s(self) -> float:
        """Seconds since the running call began; 0 when none runs."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    async def run(self, call: Callable[[], T]) -> T:
        """Runs a call and waits for it; calls of one ``Device`` come one after the other.

        Raises:
            ServiceError: as the call raised it, or INTERNAL for any other exception, which is logged.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, _finite, call)
        self._began = time.monotonic()
        try:
            await asyncio.wait([future])
        finally:
            self._began = None
        error = future.exception()
        if error is not None:
            raise as_service_error(error) from error
        return future.result()

    def submit(self, call: Callable[[], object]) -> None:
        """Queues a call whose result nobody waits for."""
        self._executor.submit(call)


def _finite(call: Callable[[], T]) -> T:
    try:
        return call()
    except StopIteration as error:
        # A future cannot carry this one: whoever waits for it would wait for ever.
        raise RuntimeError("an iterator ended too early") from error
