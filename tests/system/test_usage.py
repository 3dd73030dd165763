"""Usage records against what clients received, over two gateways and kills of services and of a gateway."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from live_avatar.launcher.child import Child, Program
from live_avatar.launcher.pipeline import DECODER, ENCODER, LocalPipeline
from live_avatar.services.gateway.store.redis_access import connect
from live_avatar.services.gateway.store.usage import UsageLog
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from live_avatar.v1.media_pb2 import VideoFormat
from live_avatar.v1.usage_service_pb2 import UsageRecord
from tests.services.gateway.clients import RATE_HZ, Talk, create_request, tone

from .harness.processes import free_port
from .harness.running import STAGES, address, ready, revive

pytestmark = pytest.mark.proof

LEASE_S = 2.0
SPEECH_S = 20
BLOCKS_BEFORE = 6
"""That all clients together have received before something is killed."""
ENCODINGS = (VideoFormat.ENCODING_FMP4, VideoFormat.ENCODING_H264_ANNEXB, VideoFormat.ENCODING_RAW_RGB24)
FPS = 25


@dataclass
class Received:
    """What a client counted."""

    session_id: str = ""
    gateway: int = 0
    frames: int = 0
    blocks: set[int] = field(default_factory=set)
    service_ns: Counter[str] = field(default_factory=Counter)
    log: list[tuple[float, int]] = field(default_factory=list)
    """Times, and the frames by then."""
    failed: bool = False

    def count(self, unit: api.StreamAvatarResponse.VideoUnit) -> None:
        """Takes one unit of video."""
        if not unit.frame_count:
            return
        self.frames += unit.frame_count
        self.log.append((time.monotonic(), self.frames))
        if unit.block_index not in self.blocks:
            self.blocks.add(unit.block_index)
            for timing in unit.timings:
                spent_ns = timing.compute_time.ToNanoseconds()
                self.service_ns.update({timing.service: spent_ns} if spent_ns else {})

    def frames_by(self, at: float) -> int:
        """Frames that had come by a time."""
        return max((frames for when, frames in self.log if when <= at), default=0)


@contextmanager
def gateways(system: LocalPipeline, redis: str, logs: Path) -> Iterator[list[Child]]:
    """Two gateways before the pipeline of a running system, with a store of their own."""
    own = system.services["gateway"].program.flags
    preset = [part for pair in pairwise(own) if pair[0] == "--preset-file" for part in pair]
    flags = (
        "--pipelines", f"{address(system, ENCODER)}/{address(system, DECODER)}", "--store.url", redis,
        "--store.lease-seconds", str(LEASE_S), "--store.retention-seconds", "600", "--usage.interval-seconds", "0.4",
        "--allow-shared-devices", *preset,
    )  # fmt: skip
    programs = [Program(name=f"gateway-{turn}", module="live_avatar.services.gateway", flags=flags) for turn in (0, 1)]
    children = [Child(one, logs / f"{one.name}.log", free_port()) for one in programs]
    try:
        for child in children:
            child.wait_listening(60.0)
        yield children
    finally:
        for child in children:
            child.kill()
            child.reap(15.0)


async def watch(child: Child, number: int, encoding: "VideoFormat.Encoding.ValueType", received: Received) -> None:
    """One session from its creation to its end, whatever ends it."""
    received.gateway = number
    async with grpc.aio.insecure_channel(f"127.0.0.1:{child.port}") as channel:
        stub = AvatarServiceStub(channel)
        request = create_request(listening=api.LISTENING_STREAMING, video=VideoFormat(encoding=encoding))
        made = await stub.CreateSession(request, timeout=60)
        received.session_id = made.session.session_id
        async with Talk(stub) as talk:
            await talk.open(made.session_token)
            speaking = asyncio.create_task(speak(talk))
            received.failed = not await count_all(talk, received)
            speaking.cancel()
            await asyncio.wait([speaking])


async def count_all(talk: Talk, received: Received) -> bool:
    """Counts up to the end; returns whether that is a good one."""
    try:
        while True:
            received.count((await talk.receive(60)).video_unit)
    except EOFError:
        return True
    except grpc.aio.AioRpcError:
        return False


async def speak(talk: Talk) -> None:
    """Says more than is watched; writes fail once the call is over."""
    try:
        for _ in range(SPEECH_S):
            await talk.speak(tone(RATE_HZ))
        await talk.finish()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return


async def sessions(children: Sequence[Child], rng: random.Random, kill: "Kill") -> list[Received]:
    """Sessions on all gateways that live, and what ends them."""
    found = list[Received]()
    living = [number for number, child in enumerate(children) if child.alive]
    async with asyncio.TaskGroup() as tasks:
        for turn, encoding in enumerate(ENCODINGS):
            received, number = Received(), living[turn % len(living)]
            found.append(received)
            tasks.create_task(watch(children[number], number, encoding, received))
        async with asyncio.timeout(120):
            while sum(len(one.blocks) for one in found) < BLOCKS_BEFORE:
                assert not any(one.failed for one in found), "a session failed before anything was killed"
                await asyncio.sleep(0.01)
        await asyncio.sleep(rng.uniform(0, 1.0))
        kill()
    return found


class Kill:
    """Ends a process without a word, and remembers when."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.at = 0.0

    def __call__(self) -> None:
        self.at = time.monotonic()
        self._child.kill()
        assert self._child.reap(15.0), "or it would count as alive when the dead are started again"


async def recorded(redis: str, names: set[str]) -> dict[str, list[UsageRecord]]:
    """All records, once each of the sessions has its last."""
    client, records = connect(redis), list[UsageRecord]()
    deadline = time.monotonic() + 60
    while not {one.session_id for one in records if one.kind == UsageRecord.KIND_ENDED} >= names:
        assert time.monotonic() < deadline, "some sessions have no last record"
        await asyncio.sleep(0.1)
        records = [record for _, record in await UsageLog(client).read(count=10_000)]
    await client.aclose(close_connection_pool=True)
    found = defaultdict[str, list[UsageRecord]](list)
    for record in records:
        found[record.session_id].append(record)
    return found


def check_exact(received: Received, records: Sequence[UsageRecord]) -> None:
    """The sums of the records are what the client received."""
    service_ns = Counter[str]()
    for record in records:
        service_ns.update({one.service: one.compute_time.ToNanoseconds() for one in record.service_times})
    assert sum(one.media_time.ToNanoseconds() for one in records) == received.frames * 10**9 // FPS
    assert sum(one.blocks for one in records) == len(received.blocks)
    assert service_ns == received.service_ns


def check_near(received: Received, records: Sequence[UsageRecord], killed_at: float) -> None:
    """What is missing came after the last renewal of the lease."""
    frames = sum(one.media_time.ToNanoseconds() for one in records) * FPS / 10**9
    assert received.frames_by(killed_at - LEASE_S) <= frames <= received.frames + 2 * 12
    assert records[-1].end_reason == "GATEWAY_LOST"


def check_numbers(records: Sequence[UsageRecord]) -> None:
    """Every (epoch, number) is there once, from 0 on, between a start and an end."""
    by_epoch = defaultdict[int, list[int]](list)
    for record in records:
        by_epoch[record.epoch].append(record.number)
    assert all(numbers == list(range(len(numbers))) for numbers in by_epoch.values())
    kinds = [record.kind for record in records]
    assert (kinds[0], kinds[-1]) == (UsageRecord.KIND_STARTED, UsageRecord.KIND_ENDED)
    assert set(kinds[1:-1]) <= {UsageRecord.KIND_PROGRESS}


@pytest.mark.timeout(600)
def test_records_sum_up_to_what_clients_received(system: LocalPipeline, redis_server: str, tmp_path: Path) -> None:
    redis, rng = f"{redis_server}/5", random.Random(17)
    exact, near = list[Received](), list[tuple[Received, float]]()
    with gateways(system, redis, tmp_path) as children:
        for victim in (STAGES[1], DECODER):
            asyncio.run(ready_all(children))
            exact += asyncio.run(sessions(children, rng, Kill(system.services[victim])))
            revive(system)
        asyncio.run(ready_all(children))
        kill = Kill(children[0])
        last = asyncio.run(sessions(children, rng, kill))
        exact += [one for one in last if one.gateway == 1]
        near += [(one, kill.at) for one in last if one.gateway == 0]
        names = {one.session_id for one in last} | {one.session_id for one in exact}
        found = asyncio.run(recorded(redis, names))
    assert len(near) == 2
    assert sum(one.failed for one in exact) == 6, "the sessions of the gateway that lived came to their end"
    for one in exact:
        check_exact(one, found[one.session_id])
    for one, killed_at in near:
        check_near(one, found[one.session_id], killed_at)
    for records in found.values():
        check_numbers(records)


async def ready_all(children: Sequence[Child]) -> None:
    for child in children:
        await ready(f"127.0.0.1:{child.port}", 1.0)
