"""What the placement of a session costs the store where a gateway knows very many pipelines, with a real Redis."""

import asyncio
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from redis.asyncio import Redis

from benchmarks.sections import Numbers, Workplace
from live_avatar.services.gateway.pipelines.fleet import Fleet
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.sessions.placement import Placement
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.store.redis_access import connect
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.v1 import avatar_service_pb2 as api

KNOWN = 1_000
TURNS = 20
_HOST, _START_S = "127.0.0.1", 20.0


@dataclass(frozen=True)
class _Known:
    """A pipeline that is ready, as far as placements look at it."""

    name: str
    ready: bool = True
    capacity: int = 4
    live_capacity: int = 4
    model_digest: str = ""


@dataclass(frozen=True)
class _KnownFleet:
    pipelines: tuple[_Known, ...]


@dataclass(frozen=True)
class _Cost:
    commands: float
    cpu_s: float


def place_sessions(place: Workplace) -> Numbers:
    """Placements that look at some of the pipelines, against those that look at all of them, in turns."""
    with tempfile.TemporaryDirectory() as folder, _redis(Path(folder)) as url:
        return asyncio.run(_measure(url))


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """The address of a real Redis."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", _HOST, "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"redis://{_HOST}:{port}"
    finally:
        process.terminate()
        process.wait(_START_S)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((_HOST, port)) == 0:
                return
        time.sleep(0.02)
    raise OSError("redis-server does not listen")


async def _measure(url: str) -> Numbers:
    client = connect(url)
    store = SessionStore(client, owner="bench", retention_ms=60_000, longest_ms=600_000)
    names = [f"pipeline-{index}:7000" for index in range(KNOWN)]
    fleet = cast("Fleet", _KnownFleet(tuple(map(_Known, names))))
    placed = Placement(store, fleet)
    before, after = list[_Cost](), list[_Cost]()
    try:
        for turn in range(TURNS):
            some, every = [await _created(store, f"{kind}{turn}") for kind in ("some", "every")]
            after.append(await _cost(client, partial(placed.place, some)))
            before.append(await _cost(client, partial(_place_by_all, store, fleet, every)))
    finally:
        await store.aclose()
    commands = [statistics.median(one.commands for one in side) for side in (before, after)]
    cpu_s = [statistics.median(one.cpu_s for one in side) for side in (before, after)]
    return {
        "placement_store_commands": commands[1],
        "create_store_commands_ratio": commands[1] / commands[0],
        "create_cpu_ratio": cpu_s[1] / cpu_s[0],
    }


async def _created(store: SessionStore, name: str) -> SessionRecord:
    record = SessionRecord(
        session_id=name, tenant="bench", state=api.Session.STATE_CREATING, config=b"", request_hash=b"", request_id="",
        pipeline="", endpoint="", max_duration_ms=600_000,
    )  # fmt: skip
    return (await store.create(record))[0]


async def _place_by_all(store: SessionStore, fleet: Fleet, record: SessionRecord) -> None:
    """The placement that counts the places of every pipeline."""
    pipelines = cast("tuple[Pipeline, ...]", fleet.pipelines)
    taken = await store.count_all_slots([one.name for one in pipelines])
    best = min(pipelines, key=lambda one: taken[one.name] - one.capacity)
    assert await store.reserve_slot(record, best.name, best.capacity) is not None


async def _cost(client: Redis, act: Callable[[], Awaitable[object]]) -> _Cost:
    before, began = await _commands(client), time.process_time()
    await act()
    cpu_s = time.process_time() - began
    # One of them is the question itself.
    return _Cost(await _commands(client) - before - 1, cpu_s)


async def _commands(client: Redis) -> int:
    return int((await client.info("stats"))["total_commands_processed"])
