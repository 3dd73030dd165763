"""Four live sessions that speak while something else is done, and what became of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from drills.cluster import Cluster
from drills.oracle import Oracle
from drills.place import Numbers, Place
from drills.viewer import Viewer, recording

SESSIONS = 4
WARM_BLOCKS = 6
_POLL_S = 0.1


async def warm_up(cluster: Cluster) -> None:
    """Short sessions that nothing disturbs; raises what ended one."""
    viewers = [Viewer(recording(WARM_BLOCKS, seed)) for seed in range(SESSIONS)]
    await asyncio.gather(*(viewer.watch(cluster.target) for viewer in viewers))
    for viewer in viewers:
        if viewer.failure is not None:
            raise viewer.failure


@asynccontextmanager
async def conversing(targets: Sequence[str], blocks: int, *, again: bool = True) -> AsyncIterator[list[Viewer]]:
    """Viewers whose sessions speak meanwhile; on exit all have ended.

    Args:
        targets: address for each viewer.
        blocks: of each session's speech.
        again: another session follows each that ends.
    """
    viewers: list[Viewer] = []
    ending = asyncio.Event()

    async def converse(number: int, target: str) -> None:
        for seed in count(number, len(targets)):
            viewer = Viewer(recording(blocks, seed))
            viewers.append(viewer)
            await viewer.watch(target)
            if ending.is_set() or not again:
                return

    tasks = [asyncio.create_task(converse(number, target)) for number, target in enumerate(targets)]
    try:
        while sum(viewer.blocks > 0 or viewer.ended for viewer in viewers) < len(targets):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        yield viewers
        ending.set()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def outcome(viewers: Sequence[Viewer], place: Place) -> Numbers:
    """What became of sessions: lost ones, wrong blocks, samples, and frames that came again or did not come."""
    oracle = Oracle(place.preset)
    totals = {"sessions_lost": 0.0, "wrong_blocks": 0.0, "samples_lost": 0.0, "repeated": 0.0, "missing": 0.0}
    place.report(f"comparing {len(viewers)} sessions with the library's loop")
    for viewer in viewers:
        wrong = oracle.wrong_blocks(viewer)
        found = {
            "sessions_lost": viewer.is_lost,
            "wrong_blocks": len(wrong),
            "samples_lost": 0 if viewer.is_lost else viewer.samples_lost,
            "repeated": viewer.repeated,
            "missing": viewer.missing,
        }
        totals = {name: total + found[name] for name, total in totals.items()}
        if any(found.values()):
            place.report(f"{viewer.describe()}; wrong blocks {wrong[:8]}")
    return totals
