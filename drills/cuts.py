"""Cuts of clients' lines at random moments; the clients come back through another gateway."""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from drills.cluster import Cluster, running
from drills.conversations import SESSIONS, conversing, outcome, warm_up
from drills.place import Numbers, Place
from drills.viewer import Viewer
from tests.client.tcp_proxy import TcpProxy, tcp_proxy

PAUSE_S = (0.2, 1.5)
RESUMED_S = 30.0
_POLL_S = 0.02


def cuts(place: Place) -> Numbers:
    """Cuts of clients' lines at random moments, back through the other gateway."""
    return asyncio.run(_cuts(place))


async def _cuts(place: Place) -> Numbers:
    async with running(place.plan("cuts")) as cluster, AsyncExitStack() as stack:
        await warm_up(cluster)
        gateway = cluster.gateways[0].address
        proxies = [await stack.enter_async_context(tcp_proxy(gateway)) for _ in range(SESSIONS)]
        async with conversing([target for _, target in proxies], place.blocks) as viewers:
            await _cut_all(cluster, viewers, [proxy for proxy, _ in proxies], place)
    found = outcome(viewers, place)
    times = [taken for viewer in viewers for taken in viewer.resumed_s]
    return {
        "resume_blocks_lost": found["missing"]
        + found["wrong_blocks"]
        + sum(_blocks_lost(viewer) for viewer in viewers),
        "resume_blocks_repeated": found["repeated"],
        "resume_samples_lost": found["samples_lost"],
        "resume_sessions_lost": found["sessions_lost"],
        "resume_s_p50": statistics.median(times) if times else float("inf"),
        "resume_s_max": max(times, default=float("inf")),
        "resume_cuts": float(place.cuts),
    }


def _blocks_lost(viewer: Viewer) -> int:
    return max(0, viewer.recording.blocks - viewer.blocks)


async def _cut_all(cluster: Cluster, viewers: Sequence[Viewer], proxies: Sequence[TcpProxy], place: Place) -> None:
    rng = random.Random(place.seed)
    turns = [0] * len(proxies)
    for number in range(place.cuts):
        victim = rng.randrange(len(proxies))
        turns[victim] += 1
        other = cluster.gateways[turns[victim] % len(cluster.gateways)]
        await asyncio.sleep(rng.uniform(*PAUSE_S))
        before = _resumed(viewers)
        began = time.monotonic()
        proxies[victim].lead_to(other.address)
        proxies[victim].cut()
        await _until_resumed(viewers, before)
        place.report(f"{number + 1} of {place.cuts}: through {other.name} after {time.monotonic() - began:.2f} s")


async def _until_resumed(viewers: Sequence[Viewer], before: int) -> None:
    """Returns when a stream has been resumed; a cut between two sessions meets none."""
    deadline = time.monotonic() + RESUMED_S
    noticed = time.monotonic() + 1
    while _resumed(viewers) == before and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)
        if time.monotonic() > noticed and all(len(viewer.lost) == len(viewer.resumed_s) for viewer in viewers):
            return


def _resumed(viewers: Sequence[Viewer]) -> int:
    return sum(len(viewer.resumed_s) for viewer in viewers)
