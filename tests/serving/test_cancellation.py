"""The first of several endless coroutines to fail ends all, whatever it fails of."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from live_avatar.serving.cancellation import CutShortError, endless


async def for_ever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("the reason")


async def cut_short() -> None:
    """As gRPC does where the call was cancelled."""
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def fail_when_cancelled() -> None:
    try:
        await for_ever()
    except asyncio.CancelledError:
        raise ValueError("the reason") from None


@pytest.mark.parametrize("others", [(for_ever,), (cut_short,), (for_ever, cut_short, for_ever)])
def test_the_reason_of_the_first_to_fail_is_raised(others: tuple[Any, ...]) -> None:
    coroutines: list[Coroutine[Any, Any, None]] = [*(other() for other in others), fail()]
    with pytest.raises(ValueError, match="the reason"):
        asyncio.run(endless(*coroutines))


def test_a_cancellation_from_within_is_an_error() -> None:
    async def reconnect_for_ever() -> str:
        try:
            await endless(for_ever(), cut_short())
        except CutShortError:
            return "still alive"

    assert asyncio.run(reconnect_for_ever()) == "still alive"


def test_one_that_fails_while_it_is_cancelled_knows_more() -> None:
    with pytest.raises(ValueError, match="the reason"):
        asyncio.run(endless(cut_short(), fail_when_cancelled()))


def test_a_cancellation_from_outside_wins() -> None:
    async def run() -> None:
        task = asyncio.create_task(endless(for_ever(), fail_when_cancelled()))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
