"""Who waits for whom."""

import asyncio

from live_avatar.services.gateway.access.caller import Caller, Scope, set_caller
from live_avatar.services.gateway.api.places import Turns
from live_avatar.services.gateway.api.usage_servicer import MAX_LISTS, UsageServicer
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.store.redis_access import IN_MEMORY, connect
from live_avatar.services.gateway.store.usage import UsageEntry, UsageLog
from live_avatar.v1 import usage_service_pb2 as usage


def test_one_name_has_one_turn_at_a_time_and_keeps_no_other_waiting() -> None:
    async def scenario() -> None:
        turns, end, began = Turns(2), asyncio.Event(), list[str]()

        async def take(name: str) -> None:
            async with turns.one(name):
                began.append(name)
                await end.wait()

        tasks = [asyncio.create_task(take(name)) for name in ("ann", "ann", "ann", "bob", "cid")]
        for _ in range(5):
            await asyncio.sleep(0)
        assert began == ["ann", "bob"]
        end.set()
        await asyncio.gather(*tasks)
        assert sorted(began) == ["ann", "ann", "ann", "bob", "cid"]
        assert not len(turns._names)

    asyncio.run(scenario())


def test_a_tenant_that_lists_all_the_time_leaves_a_turn_to_others() -> None:
    class Slow(UsageLog):
        def __init__(self) -> None:
            super().__init__(connect(IN_MEMORY))
            self.reading, self.most, self.go_on = 0, 0, asyncio.Event()

        async def read_entries(
            self, after: str = "", since_ms: int = 0, count: int = 100
        ) -> list[tuple[str, UsageEntry]]:
            self.reading += 1
            self.most = max(self.most, self.reading)
            await self.go_on.wait()
            self.reading -= 1
            return []

    async def scenario() -> None:
        log = Slow()
        servicer = UsageServicer(log, Limits())

        async def pages(tenant: str) -> None:
            set_caller(Caller(tenant=tenant, scopes=frozenset({Scope.USAGE})))
            await servicer.ListUsage(usage.ListUsageRequest(), None)  # type: ignore[arg-type]

        greedy = [asyncio.create_task(pages("greedy")) for _ in range(20)]
        await asyncio.sleep(0.01)
        assert log.reading == 1
        others = [asyncio.create_task(pages(f"team-{number}")) for number in range(3)]
        await asyncio.sleep(0.01)
        assert log.reading == log.most == MAX_LISTS
        log.go_on.set()
        await asyncio.gather(*greedy, *others)
        assert log.most <= MAX_LISTS

    asyncio.run(scenario())
