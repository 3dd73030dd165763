"""Hundreds of sessions come and go, properly or not, and every process is as it was before."""

import asyncio
import logging
import time
from collections.abc import Mapping

import pytest

from live_avatar import wire
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest

from .gateway import Head, VideoOutput, describe, linked, new_session, open_request, video_end
from .processes import DECODER, ENCODER, Memory, Processes, left_behind
from .sessions import Playing
from .system import SIDE, SMALL, Script, system

pytestmark = pytest.mark.alone

LOG = logging.getLogger(__name__)
WARM_UP, SESSIONS = 100, 300
DIGEST = system(SMALL.name).networks.digest
SETTLED_S = 30.0
GROWTH = 1.02
ONE_BLOCK = Script(blocks=1)


async def open_and_close(count: int, head: Head, video: VideoOutput) -> None:
    """Sessions with all they need but blocks, each closed; every tenth gets a block too."""
    small = system(SMALL.name)
    sink = wire.sink_to_message(*small.sink(ONE_BLOCK))
    for number in range(count):
        playing = Playing(head, video, small, new_session(), ONE_BLOCK)
        await playing.open(sink)
        await playing.speak()
        if number % 10:
            await head.close(playing.name)
        else:
            await playing.admit(0)
            await playing.end()
    assert head.failures == []


async def open_and_cut(count: int, target: str) -> None:
    """Sessions whose caller is gone at once, or in the middle of the conditioning."""
    first = ConditioningBody(sink=wire.sink_to_message(*system(SMALL.name).sink(ONE_BLOCK)), prompt="a face")
    for number in range(count):
        async with linked(target, DIGEST) as head:
            name = new_session()
            request = open_request(name, seed=1, width=SIDE, height=SIDE)
            if number % 2:
                await head.open(request)
                await head.condition(name, 0, first)
            else:
                await head.link.send(StreamBlocksRequest(open=request))


async def settled(pipeline: Processes, before: Mapping[str, Memory] | None = None) -> dict[str, Memory]:
    """What every service takes once no session is left, and nothing of what ``left_behind`` counts."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        services = (await describe(pipeline.address(ENCODER))).services
        now = {name: Memory(pipeline[name].process.pid) for name in pipeline.names}
        held = {service.name: (service.sessions_open, service.session_bytes) for service in services}
        new = left_behind(before or now, now)
        if set(held.values()) == {(0, 0)} and not new:
            return now
        assert time.monotonic() < deadline, f"sessions {held}; new threads and descriptors {new}"
        await asyncio.sleep(0.1)


async def rounds(pipeline: Processes, count: int) -> None:
    """``count`` sessions of each kind."""
    target = pipeline.address(ENCODER)
    async with video_end(pipeline.address(DECODER)) as video, linked(target, DIGEST) as head:
        await open_and_close(count, head, video)
    await open_and_cut(count, target)


def test_nothing_is_left_of_sessions_that_are_gone(pipeline: Processes) -> None:
    async def run() -> tuple[dict[str, Memory], dict[str, Memory]]:
        await rounds(pipeline, WARM_UP)
        await asyncio.sleep(1)
        before = await settled(pipeline)
        await rounds(pipeline, SESSIONS)
        return before, await settled(pipeline, before)

    system(SMALL.name).sink(ONE_BLOCK)
    before, after = asyncio.run(run())
    for name in pipeline.names:
        grown_kb = after[name].resident_kb - before[name].resident_kb
        LOG.info(
            "%s: %+d kB on %d kB, %.2f kB a session; %d threads, %d descriptors",
            name,
            grown_kb,
            before[name].resident_kb,
            grown_kb / (2 * SESSIONS),
            after[name].threads,
            after[name].descriptors,
        )
        assert after[name].resident_kb < GROWTH * before[name].resident_kb, name
