"""What is left of sessions that have ended: in services, in gateways, and in the store."""

import asyncio
import time
from collections.abc import Mapping

from redis.asyncio import Redis

from drills.cluster import Cluster
from drills.process import Process
from live_avatar.client import AvatarClient
from tests.system.harness.running import held_by

FREED_S = 60.0
"""Longer than a lease and the time in which a lost client may come back."""
_POLL_S = 0.5


async def leftovers(cluster: Cluster) -> Mapping[str, int]:
    """Sessions that services hold, places and leases in the store: what is left after ``FREED_S`` at most."""
    deadline = time.monotonic() + FREED_S
    while True:
        left = {
            "places_left": await _places(cluster),
            "leases_left": await _leases(cluster),
            "sessions_left": await _sessions(cluster),
        }
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        await asyncio.sleep(_POLL_S)


def memory_ratio(processes: list[Process], before: Mapping[str, int]) -> float:
    """The largest growth of a process: its resident memory over that of the one with its name before."""
    return max(process.resident_kb / before[process.name] for process in processes)


async def _places(cluster: Cluster) -> int:
    """Sessions that the services of all pipelines hold."""
    held = [await held_by(service.address) for service in cluster.services]
    return sum(sessions for sessions, _ in held)


async def _sessions(cluster: Cluster) -> int:
    count = 0
    for gateway in cluster.gateways:
        async with AvatarClient(gateway.address) as client:
            count += (await client.server_info()).sessions_open
    return count


async def _leases(cluster: Cluster) -> int:
    """Leases and taken places in the store."""
    async with Redis.from_url(f"redis://{await cluster.primary()}/0") as redis:
        leases = [key async for key in redis.scan_iter("*lease:*")]
        slots = [await redis.zcard(key) async for key in redis.scan_iter("*slots:*")]
    return len(leases) + sum(slots)
