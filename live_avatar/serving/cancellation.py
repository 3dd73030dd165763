"""Endless coroutines beside each other, of which the first to fail ends all; and cancellations that do not get lost.

Knows tasks alone.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class CutShortError(Exception):
    """A coroutine was cancelled from within: by what it waited for, not by the task that runs it."""


async def endless(*coroutines: Coroutine[Any, Any, object]) -> NoReturn:
    """Runs coroutines that never return, until one raises; then cancels the others and raises the same.

    A cancellation from outside always wins.  In a task group it gets lost where a task fails at the same moment
    (Python 3.11), and a loop around the group that handles errors would go on for ever.

    A cancellation from within is an error like any other: gRPC answers who writes to a stream with CancelledError
    when a read of the same stream was cancelled a moment before, for example by its timeout.  As it is, it would end
    the loop around without a word.

    Raises:
        CutShortError: that happened, and none of the others failed for a reason of its own.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    # One that fails while it is cancelled knows more than one that was cut short.
    failed = next((task for task in [*ended, *tasks] if not task.cancelled()), None)
    if failed is None:
        raise CutShortError
    failed.result()
    raise AssertionError(f"{failed.get_coro()} was to run for ever")


@contextmanager
def keeping_cancellation() -> Iterator[None]:
    """Raises CancelledError at the end if the running task was cancelled inside and nobody there let it through.

    ``asyncio.wait_for`` of Python 3.11 forgets a cancellation that comes when what it waits for has just ended, and
    the Redis client sends every command through it.  A loop around such a call would go on for ever.
    """
    task = asyncio.current_task()
    assert task is not None, "only a task can be cancelled"
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


def first_cause(group: BaseException) -> BaseException:
    """One of the errors that ended a group of tasks together; they end for one cause."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
