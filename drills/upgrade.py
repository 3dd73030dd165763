"""A rolling upgrade: every process is asked to end and replaced, one after the other, while four sessions speak."""

import asyncio
import time

from drills.cluster import Cluster, running
from drills.conversations import SESSIONS, conversing, outcome, warm_up
from drills.faults import replace
from drills.place import Numbers, Place

SETTLED_S = 1.0
"""Between two processes."""


def upgrade(place: Place) -> Numbers:
    """Every process is replaced in turn by SIGTERM and a new one, under four live sessions."""
    return asyncio.run(_upgrade(place))


async def _upgrade(place: Place) -> Numbers:
    async with running(place.plan("upgrade")) as cluster:
        await warm_up(cluster)
        async with conversing([cluster.target] * SESSIONS, place.blocks) as viewers:
            began = time.monotonic()
            await _replace_all(cluster, place)
            ended = time.monotonic()
    gaps = [gap for viewer in viewers if (gap := viewer.gap_s(began, ended)) is not None]
    found = outcome(viewers, place)
    return {
        "upgrade_sessions_lost": found["sessions_lost"],
        "upgrade_wrong_blocks": found["wrong_blocks"] + found["repeated"] + found["missing"],
        "upgrade_samples_lost": found["samples_lost"],
        "upgrade_gap_s_max": max(gaps, default=0.0),
    }


async def _replace_all(cluster: Cluster, place: Place) -> None:
    for process in [*cluster.services, *cluster.gateways]:
        taken_s = await replace(process)
        place.report(f"{process.name} replaced in {taken_s:.1f} s")
        await cluster.wait_ready()
        await asyncio.sleep(SETTLED_S)
