"""The device's thread."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from live_avatar.serving.device import Device, outcome
from live_avatar.serving.errors import ServiceError

WAIT_S = 10.0


def test_calls_give_results_errors_and_the_age_of_the_running_one() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            device = Device(executor)
            assert await device.run(lambda: 7) == 7
            asked, released = time.monotonic(), Event()
            running = asyncio.create_task(device.run(lambda: released.wait(WAIT_S)))
            async with asyncio.timeout(WAIT_S):
                while device.age_s < 0.05:  # noqa: ASYNC110 - grows in another thread
                    await asyncio.sleep(0.01)
            assert device.age_s <= time.monotonic() - asked
            released.set()
            await running
            assert device.age_s == 0
            with pytest.raises(ServiceError, match="INTERNAL"):
                await device.run(lambda: 1 // 0)

    asyncio.run(scenario())


def test_a_call_that_waits_for_another_is_not_older_than_its_own_run() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            device = Device(executor)
            released = Event()

            def first() -> float:
                time.sleep(0.3)
                return time.monotonic()

            calls = device.start(first), device.start(lambda: released.wait(WAIT_S))
            ended = await outcome(calls[0])
            assert device.age_s <= time.monotonic() - ended
            released.set()
            await outcome(calls[1])
            assert device.age_s == 0

    asyncio.run(scenario())


def test_an_iterator_that_ends_too_early_does_not_hang_whoever_waits() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            async with asyncio.timeout(2):
                with pytest.raises(ServiceError, match="INTERNAL"):
                    await Device(executor).run(lambda: next(iter(())))

    asyncio.run(scenario())
