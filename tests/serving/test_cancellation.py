"""The first of several endless coroutines to fail ends all, whatever it fails of."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest

from live_avatar.serving.cancellation import CutShortError, endless, keeping_cancellation


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


def test_a_cancellation_that_wait_for_forgets_is_kept() -> None:
    async def scenario() -> tuple[bool, bool]:
        async def careless() -> None:
            with suppress(asyncio.CancelledError):
                await for_ever()

        async def careful() -> None:
            with keeping_cancellation():
                await careless()

        tasks = [asyncio.create_task(careless()), asyncio.create_task(careful())]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return tasks[0].cancelled(), tasks[1].cancelled()

    assert asyncio.run(scenario()) == (False, True)


def test_what_was_cancelled_before_may_still_tidy_up() -> None:
    async def scenario() -> list[str]:
        done: list[str] = []

        async def tidy() -> None:
            try:
                await for_ever()
            finally:
                with keeping_cancellation():
                    await asyncio.sleep(0)
                done.append("tidied")

        task = asyncio.create_task(tidy())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return done

    assert asyncio.run(scenario()) == ["tidied"]
