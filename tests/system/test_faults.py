"""A service dies or freezes in the middle of a film: the client is told in time, and the next film is served."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count

import grpc
import pytest

from live_avatar.client import AvatarClient, AvatarError, AvatarStream, SessionOptions, VideoUnit
from live_avatar.launcher.pipeline import DECODER, GATEWAY, LocalPipeline
from tests.services.gateway.clients import portrait, tone

from .harness.faults import FREED_S, STEADY_S, Fault, check_stage_lost, thawed_afterwards
from .harness.running import PIPELINE, QUICK, STAGES, ending_system, freed, held, ready, revive

pytestmark = pytest.mark.alone

RATE_HZ = 16_000
OPTIONS = SessionOptions(sample_rate_hz=RATE_HZ, listening="streaming", video="h264")
UNITS_BEFORE = 2
BEGIN_S = 60.0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """A system whose sessions end with their pipeline."""
    with ending_system(tmp_path_factory.mktemp("system"), QUICK) as running:
        yield running


@pytest.fixture
def system(started: LocalPipeline) -> LocalPipeline:
    """``started`` with all its services alive and ready."""
    revive(started)
    return started


@dataclass
class VideoFile:
    """A film without end that is being made."""

    units: int = 0
    error: AvatarError | None = None


async def _speak(stream: AvatarStream) -> None:
    with suppress(AvatarError):
        for _ in count():
            await stream.send_audio(tone(RATE_HZ))


async def _watch(stream: AvatarStream, movie: VideoFile) -> None:
    try:
        async for result in stream:
            movie.units += isinstance(result, VideoUnit)
    except AvatarError as error:
        movie.error = error


async def _begun(movie: VideoFile) -> None:
    """Returns when the first blocks have come."""
    async with asyncio.timeout(BEGIN_S):
        while movie.units < UNITS_BEFORE:  # noqa: ASYNC110 - filled by another task
            await asyncio.sleep(0.01)


@asynccontextmanager
async def endless_video(system: LocalPipeline) -> AsyncIterator[tuple[VideoFile, "asyncio.Task[None]"]]:
    """A film of which the first blocks have come; the task ends when the film does."""
    movie = VideoFile()
    async with AvatarClient(system.gateway) as client:
        session = await client.create_session(portrait(), OPTIONS)
        async with session.stream() as stream, asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(_speak(stream))
            watching = tasks.create_task(_watch(stream, movie))
            await _begun(movie)
            yield movie, watching
            speaking.cancel()
            watching.cancel()


async def check_serves(system: LocalPipeline) -> None:
    """The next session makes a whole film."""
    await ready(system.gateway, STEADY_S)
    frames = 0
    async with AvatarClient(system.gateway) as client:
        session = await client.create_session(portrait(), OPTIONS)
        async with session.stream() as stream:
            await stream.send_audio(tone(2 * RATE_HZ))
            await stream.end()
            async for result in stream:
                frames += result.frame_count if isinstance(result, VideoUnit) else 0
    assert frames == 2 * 25 - 3
    async with asyncio.timeout(FREED_S):
        await freed(system)


@pytest.mark.parametrize("victim", PIPELINE)
def test_a_killed_service(system: LocalPipeline, victim: str) -> None:
    async def run() -> None:
        async with endless_video(system) as (movie, watching):
            system.services[victim].kill()
            fault = Fault(f"{victim} killed")
            await fault.known(watching)
            check_stage_lost(movie.error)
            await fault.freed(freed(system, besides=victim))

    asyncio.run(run())
    revive(system)
    asyncio.run(check_serves(system))


@pytest.mark.parametrize("victim", [*STAGES, DECODER])
def test_a_frozen_service(system: LocalPipeline, victim: str) -> None:
    async def run() -> None:
        async with endless_video(system) as (movie, watching):
            system.services[victim].process.send_signal(signal.SIGSTOP)
            fault = Fault(f"{victim} frozen")
            await fault.known(watching)
            check_stage_lost(movie.error)
            await fault.freed(freed(system, besides=victim))

    with thawed_afterwards(system.services[victim]):
        asyncio.run(run())
    asyncio.run(check_serves(system))


def test_a_killed_gateway(system: LocalPipeline) -> None:
    async def run() -> None:
        async with endless_video(system) as (movie, watching):
            assert all([(await held(system, name))[0] for name in PIPELINE])
            system.services[GATEWAY].kill()
            fault = Fault("gateway killed")
            await fault.known(watching)
            assert movie.error is not None
            assert movie.error.code is grpc.StatusCode.UNAVAILABLE
            await fault.freed(freed(system, besides=GATEWAY))

    asyncio.run(run())
    revive(system)
    asyncio.run(check_serves(system))
