"""What sessions leave behind in processes: memory, threads, descriptors."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping

from .processes import Memory, left_behind

LOG = logging.getLogger(__name__)
SETTLED_S = 30.0
IDLE_S = 45.0
"""Longer than gRPC keeps an idle thread."""
GROWTH = 1.02
"""Resident memory after hundreds of sessions, over that after the warm-up."""
NOISE_KB = 8_000
"""A process without a leak was seen to grow by up to 5 MB in a thousand sessions, and by 2 MB in four thousand."""


async def settled(
    pids: Mapping[str, int], freed: Awaitable[None], before: Mapping[str, Memory] | None = None
) -> dict[str, Memory]:
    """What every process takes once no session is left, and where ``before`` is given few files and threads are new.

    gRPC keeps threads for a while that it made under load, and pools grow when calls happen to meet.

    Args:
        pids: of the processes, by name.
        freed: returns when no process holds a session.
        before: what the processes took.
    """
    async with asyncio.timeout(SETTLED_S):
        await freed
    deadline = time.monotonic() + IDLE_S
    while True:
        now = {name: Memory(pid) for name, pid in pids.items()}
        new = left_behind(before or now, now)
        if not new:
            return now
        assert time.monotonic() < deadline, f"new threads and descriptors: {new}"
        await asyncio.sleep(0.1)


def check_growth(before: Mapping[str, Memory], after: Mapping[str, Memory], sessions: int) -> None:
    """Every process is about as large as it was ``sessions`` sessions before."""
    for name, memory in after.items():
        was_kb = before[name].resident_kb
        grown_kb = memory.resident_kb - was_kb
        LOG.info(
            "%s: %+d kB on %d kB, %.2f kB a session; %d threads, %d descriptors",
            name, grown_kb, was_kb, grown_kb / sessions, memory.threads, memory.descriptors,
        )  # fmt: skip
    for name, memory in after.items():
        was_kb = before[name].resident_kb
        assert memory.resident_kb < max(GROWTH * was_kb, was_kb + NOISE_KB), name
