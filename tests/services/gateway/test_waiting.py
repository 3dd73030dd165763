"""How tasks of one loop wait for each other: who is woken by a change, and who is not."""

import asyncio

from live_avatar.services.gateway.waiting import Condition


def test_a_change_wakes_those_whose_condition_holds_and_no_others() -> None:
    async def run() -> None:
        changed, ready, looks = Condition(), False, 0

        def holds() -> bool:
            nonlocal looks
            looks += 1
            return ready

        waiting, next_one = asyncio.create_task(changed.wait_for(holds)), asyncio.create_task(changed.wait())
        await asyncio.sleep(0)
        changed.notify()
        await next_one
        assert not waiting.done() and looks == 2, "asked where the change was made, and not woken to ask again"
        ready = True
        changed.notify()
        await waiting

    asyncio.run(run())


def test_a_condition_that_ceases_to_hold_before_the_waiter_runs_is_waited_for_again() -> None:
    async def run() -> None:
        changed, room = Condition(), 0
        waiting = asyncio.create_task(changed.wait_for(lambda: room > 0))
        await asyncio.sleep(0)
        room = 1
        changed.notify()
        room = 0
        await asyncio.sleep(0.01)
        assert not waiting.done()
        room = 1
        changed.notify()
        await waiting

    asyncio.run(run())


def test_one_who_gives_up_is_forgotten() -> None:
    async def run() -> None:
        changed = Condition()
        waiting = asyncio.create_task(changed.wait_for(lambda: False))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        changed.notify()
        assert waiting.cancelled()

    asyncio.run(run())
