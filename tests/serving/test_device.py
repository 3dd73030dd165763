"""The device's thread."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from live_avatar.serving.device import Device, outcome
from live_avatar.serving.errors import ServiceError


def test_calls_give_results_errors_and_the_age_of_the_running_one() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            device = Device(executor)
            assert await device.run(lambda: 7) == 7
            running = asyncio.create_task(device.run(lambda: time.sleep(0.2)))
            await asyncio.sleep(0.1)
            assert 0.05 < device.age_s < 0.2
            await running
            assert device.age_s == 0
            with pytest.raises(ServiceError, match="INTERNAL"):
                await device.run(lambda: 1 // 0)

    asyncio.run(scenario())


def test_a_call_that_waits_for_another_is_not_older_than_its_own_run() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            device = Device(executor)
            calls = [device.start(lambda: time.sleep(0.3)) for _ in range(2)]
            await outcome(calls[0])
            assert device.age_s < 0.2
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
