"""Hundreds of sessions come and go, properly or not, and every process is as it was before."""

import asyncio
from collections.abc import Mapping

import pytest

from live_avatar import wire
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest

from .harness import leaks
from .harness.gateway import Head, VideoOutput, linked, new_session, open_request, video_end
from .harness.playing import Playing
from .harness.processes import DECODER, ENCODER, Memory, Processes
from .harness.reference import SIDE, SMALL, Script, system
from .harness.running import freed_at

pytestmark = pytest.mark.alone

WARM_UP, SESSIONS = 100, 300
DIGEST = system(SMALL.name).networks.digest
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
    """See ``leaks.settled``."""
    pids = {name: pipeline[name].process.pid for name in pipeline.names}
    return await leaks.settled(pids, freed_at(pipeline.address(name) for name in pipeline.names), before)


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
    leaks.check_growth(before, after, 2 * SESSIONS)
