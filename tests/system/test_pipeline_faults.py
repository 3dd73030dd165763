"""A service dies or freezes, a gateway goes away: who must know knows in time, and nothing is left behind."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
import pytest

from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest, StreamBlocksResponse
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub
from live_avatar.serving.errors import STALE_EPOCH, ServiceError
from live_avatar.serving.link import Link
from live_avatar.serving.timing import PROTOCOL_VERSION

from .harness.faults import FREED_S, STEADY_S, Fault, check_stage_lost, thawed_afterwards
from .harness.gateway import READY_S, Head, Name, VideoOutput, linked, new_session, open_request, video_end
from .harness.playing import Playing
from .harness.processes import DECODER, ENCODER, START_S, Processes, stage_name
from .harness.reference import SMALL, Script, pictures, prepare, system
from .harness.running import freed_at, held_by

pytestmark = pytest.mark.alone

STAGES = (stage_name(range(2)), stage_name(range(2, 4)))
NAMES = (ENCODER, *STAGES, DECODER)
SCRIPT = Script(seed=3, portrait=3, voice=3)
ENDLESS = Script(blocks=100)
DIGEST = system(SMALL.name).networks.digest


@dataclass
class Running:
    """A session in the middle of its blocks."""

    head: Head
    video: VideoOutput
    name: Name


@asynccontextmanager
async def running_session(pipeline: Processes, name: Name) -> AsyncIterator[Running]:
    """A session of which the first blocks have come out and more are on their way."""
    async with video_end(pipeline.address(DECODER)) as video, linked(pipeline.address(ENCODER), DIGEST) as head:
        playing = Playing(head, video, system(SMALL.name), name, ENDLESS)
        await playing.open()
        admitting = asyncio.create_task(playing.admit_all())
        try:
            await playing.until(2)
            yield Running(head, video, name)
        finally:
            admitting.cancel()
            with suppress(asyncio.CancelledError, ServiceError):
                await admitting


async def freed(pipeline: Processes, *, besides: str = "") -> None:
    """Returns when no service, or none but one, holds anything."""
    await freed_at(pipeline.address(name) for name in NAMES if name != besides)


async def check_serves(pipeline: Processes, name: Name) -> None:
    """The next session of the pipeline is as good as the first."""
    small = system(SMALL.name)
    async with linked(pipeline.address(ENCODER), DIGEST) as head, video_end(pipeline.address(DECODER)) as video:
        playing = Playing(head, video, small, name, SCRIPT)
        await playing.open()
        await playing.admit_all()
        await playing.end()
        assert video.frames(name) == pictures(SMALL.name, SCRIPT)


@pytest.fixture(autouse=True)
def _prepared() -> None:
    prepare(SMALL.name, SCRIPT)
    system(SMALL.name).sink(ENDLESS)


@pytest.mark.parametrize("victim", NAMES)
def test_a_killed_service(pipeline: Processes, victim: str) -> None:
    async def run() -> None:
        async with running_session(pipeline, new_session()) as session:
            fault = Fault(f"{victim} killed")
            pipeline[victim].kill()
            check_stage_lost(await fault.known(session.head.failure(session.name)))
            await fault.freed(freed(pipeline, besides=victim))
            again = pipeline.spawn_again(victim)
            await asyncio.to_thread(again.wait_listening, START_S)
        await check_serves(pipeline, new_session())

    asyncio.run(run())


@pytest.mark.parametrize("victim", STAGES)
def test_a_frozen_stage(pipeline: Processes, victim: str) -> None:
    """Noticed in time; what it does after it thaws reaches nobody, not even a later epoch of the same session."""

    async def run() -> None:
        async with running_session(pipeline, new_session()) as session:
            fault = Fault(f"{victim} frozen")
            pipeline[victim].process.send_signal(signal.SIGSTOP)
            check_stage_lost(await fault.known(session.head.failure(session.name)))
            await fault.freed(freed(pipeline, besides=victim))
            pipeline[victim].process.send_signal(signal.SIGCONT)
            await steadily_ready(session.head.link)
            await later_epoch(pipeline, session)
        await freed(pipeline)

    with thawed_afterwards(pipeline[victim]):
        asyncio.run(run())


async def steadily_ready(link: Link) -> None:
    """Returns once all services have been ready for longer than one that thaws takes to learn who gave it up."""
    async with asyncio.timeout(READY_S):
        since = time.monotonic()
        while time.monotonic() - since < STEADY_S:
            if not link.ready:
                since = time.monotonic()
            await asyncio.sleep(0.05)


async def later_epoch(pipeline: Processes, session: Running) -> None:
    """Plays the next epoch of a session; what still comes of the old one is refused and changes nothing."""
    old, new = session.name, (session.name[0], session.name[1] + 1)
    playing = Playing(session.head, session.video, system(SMALL.name), new, SCRIPT)
    await playing.open()
    for block in range(3):
        await playing.admit(block)
    for service in NAMES:
        async with asyncio.timeout(FREED_S), linked(pipeline.address(service), DIGEST) as late:
            await late.admit(old, 3)
            error = await late.failure(old)
            assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, STALE_EPOCH)
    await playing.admit_all(3)
    await playing.end()
    assert session.video.frames(new) == pictures(SMALL.name, SCRIPT)


def test_a_gateway_that_goes_away(pipeline: Processes) -> None:
    async def run() -> None:
        async with running_session(pipeline, new_session()):
            assert all([await held_by(pipeline.address(name)) > (0, 0) for name in NAMES])
        await Fault("gateway gone").freed(freed(pipeline))
        await check_serves(pipeline, new_session())

    asyncio.run(run())


def test_a_gateway_that_falls_silent(pipeline: Processes) -> None:
    async def run() -> None:
        name = new_session()
        async with linked(pipeline.address(ENCODER), DIGEST):
            pass  # the pipeline is ready
        async with grpc.aio.insecure_channel(pipeline.address(ENCODER)) as channel:
            call = PipelineServiceStub(channel).StreamBlocks()
            hello = StreamBlocksRequest.Hello(protocol_version=PROTOCOL_VERSION, peer="test")
            await call.write(StreamBlocksRequest(hello=hello))
            request = open_request(name, seed=1, width=ENDLESS.width, height=ENDLESS.height)
            await call.write(StreamBlocksRequest(open=request))
            fault = Fault("gateway silent")
            while isinstance(answer := await call.read(), StreamBlocksResponse) and not answer.HasField("opened"):
                assert not answer.HasField("session_failed")
            assert await held_by(pipeline.address(DECODER)) > (0, 0)
            await fault.freed(freed(pipeline))

    asyncio.run(run())
