"""Endless coroutines beside each other, of which the first to fail ends all.

Knows tasks alone.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn


async def endless(*coroutines: Coroutine[Any, Any, object]) -> NoReturn:
    """Runs coroutines that never return, until one raises; then cancels the others and raises the same.

    A cancellation from outside always wins.  In a task group it gets lost where a task fails at the same moment
    (Python 3.11), and a loop around the group that handles errors would go on for ever.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        failed = next(task for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failed.result()
    raise AssertionError(f"{failed.get_coro()} was to run for ever")
