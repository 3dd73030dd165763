"""Who enters a pipeline next, and how many keep up with it."""

import asyncio

from live_avatar.config import TINY
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.services.gateway.pipelines.deadline_queue import NO_HURRY_NS, DeadlineQueue
from live_avatar.services.gateway.pipelines.load import Load
from live_avatar.v1.avatar_service_pb2 import BlockTiming


def test_the_earliest_due_enters_first_and_one_at_a_time() -> None:
    async def scenario() -> list[int]:
        credits, entered = [0], list[int]()
        queue = DeadlineQueue(lambda: credits[0] > 0)

        async def enter(due_ns: int) -> None:
            async with queue.slot(due_ns):
                credits[0] -= 1
                entered.append(due_ns)
                await asyncio.sleep(0)

        waiting = [asyncio.create_task(enter(due)) for due in (NO_HURRY_NS, 7, 3, NO_HURRY_NS - 1, 5)]
        await asyncio.sleep(0)
        assert entered == []
        for count in range(1, 6):
            credits[0] += 1
            queue.notify()
            await asyncio.sleep(0.01)
            assert len(entered) == count
        await asyncio.gather(*waiting)
        return entered

    assert asyncio.run(scenario()) == [3, 5, 7, NO_HURRY_NS - 1, NO_HURRY_NS]


def test_one_who_leaves_the_queue_holds_up_nobody() -> None:
    async def scenario() -> None:
        free = [False]
        queue = DeadlineQueue(lambda: free[0])

        async def enter(due_ns: int) -> int:
            async with queue.slot(due_ns):
                return due_ns

        first, second = asyncio.create_task(enter(1)), asyncio.create_task(enter(2))
        await asyncio.sleep(0)
        first.cancel()
        free[0] = True
        queue.notify()
        assert await asyncio.wait_for(second, 10) == 2

    asyncio.run(scenario())


def service(name: str, device: str) -> ServiceInfo:
    return ServiceInfo(name=name, device=device)


def timing(name: str, milliseconds: int) -> BlockTiming:
    result = BlockTiming(service=name)
    result.compute_time.FromMilliseconds(milliseconds)
    return result


def test_services_that_share_a_device_share_its_time() -> None:
    load, chain = Load(), [service("a", "gpu 0"), service("b", "gpu 1"), service("c", "gpu 1")]
    assert load.live_sessions(chain, TINY) is None
    for _ in range(8):
        load.note([timing("a", 60), timing("b", 40), timing("c", 50)])
    assert load.step_s(chain) == 0.09
    assert load.live_sessions(chain, TINY) == 4
    for _ in range(64):
        load.note([timing("a", 900), timing("b", 1), timing("c", 1)])
    assert load.live_sessions(chain, TINY) == 1
