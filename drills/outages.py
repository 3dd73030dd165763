"""The store is frozen, killed and back empty, and fails over, while four sessions speak."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from drills.cluster import Cluster, running
from drills.conversations import SESSIONS, conversing, outcome, warm_up
from drills.place import Numbers, Place

FROZEN_S = 14.0
EMPTY_S = 3.0
"""Between the end of the store and the start of an empty one."""
FAILOVER_S = 20.0
SETTLED_S = 12.0
"""More than a lease: sessions must outlive the outage too."""


def store(place: Place) -> Numbers:
    """The store is frozen for 14 s, killed and back empty, and fails over by its sentinel."""
    numbers: Numbers = {"store_sessions_lost": 0.0}
    for name, outage in OUTAGES.items():
        found = asyncio.run(_outage(place, name, outage))
        numbers |= {f"store_{key}": value for key, value in found.items()}
        numbers["store_sessions_lost"] += found[f"{name}_sessions_lost"]
    return numbers


async def _outage(place: Place, name: str, outage: Callable[[Cluster], Awaitable[None]]) -> Numbers:
    async with running(place.plan(f"store-{name}")) as cluster:
        await warm_up(cluster)
        async with conversing([cluster.target] * SESSIONS, place.blocks, again=False) as viewers:
            place.report(f"the store: {outage.__doc__}")
            await outage(cluster)
            await asyncio.sleep(SETTLED_S)
            await cluster.wait_ready()
    found = outcome(viewers, place)
    wrong = found["wrong_blocks"] + found["repeated"] + found["missing"] + found["samples_lost"]
    return {f"{name}_sessions_lost": found["sessions_lost"], f"{name}_wrong": wrong}


async def _frozen(cluster: Cluster) -> None:
    """Frozen for 14 s."""
    for process in cluster.store.processes:
        process.freeze()
    await asyncio.sleep(FROZEN_S)
    for process in cluster.store.processes:
        process.thaw()


async def _empty(cluster: Cluster) -> None:
    """All of it is killed and comes back empty."""
    for process in cluster.store.processes:
        process.kill()
    await asyncio.sleep(EMPTY_S)
    for process in cluster.store.processes:
        await process.restart()


async def _failover(cluster: Cluster) -> None:
    """Its primary is killed, and the sentinel makes the replica the new one."""
    cluster.store.primary.kill()
    await asyncio.sleep(FAILOVER_S)
    await cluster.store.primary.restart()


OUTAGES: Mapping[str, Callable[[Cluster], Awaitable[None]]] = {
    "frozen": _frozen,
    "empty": _empty,
    "failover": _failover,
}
