"""Random kills and freezes of any process while four sessions speak."""

import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from drills.cluster import Cluster, running
from drills.conversations import SESSIONS, conversing, outcome, warm_up
from drills.faults import Fault, deck, disturb
from drills.leftovers import leftovers, memory_ratio
from drills.place import Numbers, Place
from drills.viewer import Viewer

PAUSE_S = (1.0, 4.0)
"""From all being ready again to the next fault."""
LONG_GAP_S = 2.0
"""Longer ones are reported with their fault."""
# Each session meets far more losses than a real one.
FLAGS = ("--limits.max-losses-per-minute", "60")


def kills(place: Place) -> Numbers:
    """Random kills and freezes of any process during live speech of four sessions."""
    return asyncio.run(_kills(place))


async def _kills(place: Place) -> Numbers:
    async with running(place.plan("kills", *FLAGS)) as cluster:
        await warm_up(cluster)
        before = {process.name: process.resident_kb for process in cluster.processes}
        async with conversing([cluster.target] * SESSIONS, place.blocks) as viewers:
            faults = await _disturb_all(cluster, place)
        left = await leftovers(cluster)
        ratio = memory_ratio(cluster.processes, before)
    found = outcome(viewers, place)
    return {
        "kills_sessions_lost": found["sessions_lost"],
        "kills_wrong_blocks": found["wrong_blocks"] + found["repeated"] + found["missing"],
        "audio_samples_lost": found["samples_lost"],
        **gaps(viewers, faults, place),
        "kills": float(len(faults)),
        "kills_sessions": float(len(viewers)),
        "kills_memory_ratio": ratio,
        **{f"kills_{name}": float(number) for name, number in left.items()},
    }


async def _disturb_all(cluster: Cluster, place: Place) -> list[Fault]:
    rng = random.Random(place.seed)
    victims = deck(cluster.disturbed, rng)
    faults: list[Fault] = []
    for number in range(place.kills):
        faults.append(await disturb(next(victims), rng))
        place.report(f"{number + 1} of {place.kills}: {faults[-1]}")
        await cluster.wait_ready()
        await asyncio.sleep(rng.uniform(*PAUSE_S))
    return faults


def gaps(viewers: Sequence[Viewer], faults: Sequence[Fault], place: Place) -> Numbers:
    """Times without a frame after each fault, of the sessions that it disturbed."""
    spans = pairwise([*(fault.at for fault in faults), float("inf")])
    found = {
        fault: [gap for viewer in viewers if (gap := viewer.gap_s(*span)) is not None]
        for fault, span in zip(faults, spans, strict=True)
    }
    for fault, long in found.items():
        if max(long, default=0.0) > LONG_GAP_S:
            place.report(f"gaps of {', '.join(f'{gap:.1f}' for gap in long)} s: {fault}")
    times = [gap for long in found.values() for gap in long] or [0.0]
    return {
        "kills_gaps": float(len(times)),
        "kills_gap_s_p50": float(np.percentile(times, 50)),
        "kills_gap_s_p99": float(np.percentile(times, 99)),
    }
