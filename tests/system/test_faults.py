"""A service dies or freezes in the middle of a film: the client is told in time, and the next film is served."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count

import grpc
import pytest

from live_avatar.client import AvatarClient, AvatarError, AvatarStream, SessionOptions, VideoUnit
from live_avatar.launcher.pipeline import DECODER, GATEWAY, LocalPipeline
from tests.services.gateway.clients import portrait, tone

from .running import PIPELINE, STAGES, freed, held, ready, revive

pytestmark = pytest.mark.alone

LOG = logging.getLogger(__name__)
KILLED_KNOWN_S, FROZEN_KNOWN_S, FREED_S = 15.0, 15.0, 30.0
"""Far more than it takes (0.1, 2.7 and 3 s, as the log says), since other work on the machine delays it; far less
than gRPC's own minute."""
RATE_HZ = 16_000
OPTIONS = SessionOptions(sample_rate_hz=RATE_HZ, listening="streaming", video="h264")
STEADY_S = 2.0
"""A service that thaws is connected again before it learns that its neighbour gave it up; that takes a heartbeat."""
UNITS_BEFORE = 2
BEGIN_S = 60.0


@dataclass
class Film:
    """A film without end that is being made."""

    units: int = 0
    error: AvatarError | None = None


async def _speak(stream: AvatarStream) -> None:
    with suppress(AvatarError):
        for _ in count():
            await stream.send_audio(tone(RATE_HZ))


async def _watch(stream: AvatarStream, film: Film) -> None:
    try:
        async for result in stream:
            film.units += isinstance(result, VideoUnit)
    except AvatarError as error:
        film.error = error


async def _begun(film: Film) -> None:
    """Returns when the first blocks have come."""
    async with asyncio.timeout(BEGIN_S):
        while film.units < UNITS_BEFORE:  # noqa: ASYNC110 - filled by another task
            await asyncio.sleep(0.01)


@asynccontextmanager
async def endless_film(system: LocalPipeline) -> AsyncIterator[tuple[Film, "asyncio.Task[None]"]]:
    """A film of which the first blocks have come; the task ends when the film does."""
    film = Film()
    async with AvatarClient(system.gateway) as client:
        session = await client.create_session(portrait(), OPTIONS)
        async with session.stream() as stream, asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(_speak(stream))
            watching = tasks.create_task(_watch(stream, film))
            await _begun(film)
            yield film, watching
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
        async with endless_film(system) as (film, watching):
            system.services[victim].kill()
            began = time.monotonic()
            async with asyncio.timeout(KILLED_KNOWN_S):
                await watching
            LOG.info("%s killed: the client knows after %.2f s", victim, time.monotonic() - began)
            assert film.error is not None
            assert (film.error.code, film.error.reason) == (grpc.StatusCode.UNAVAILABLE, "STAGE_LOST")
            async with asyncio.timeout(FREED_S - (time.monotonic() - began)):
                await freed(system, besides=victim)
            LOG.info("%s killed: all is free after %.2f s", victim, time.monotonic() - began)

    asyncio.run(run())
    revive(system)
    asyncio.run(check_serves(system))


@pytest.mark.parametrize("victim", [*STAGES, DECODER])
def test_a_frozen_service(system: LocalPipeline, victim: str) -> None:
    async def run() -> None:
        async with endless_film(system) as (film, watching):
            system.services[victim].process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            async with asyncio.timeout(FROZEN_KNOWN_S):
                await watching
            LOG.info("%s frozen: the client knows after %.2f s", victim, time.monotonic() - began)
            assert film.error is not None
            assert (film.error.code, film.error.reason) == (grpc.StatusCode.UNAVAILABLE, "STAGE_LOST")
            async with asyncio.timeout(FREED_S - (time.monotonic() - began)):
                await freed(system, besides=victim)
            LOG.info("%s frozen: all is free after %.2f s", victim, time.monotonic() - began)

    try:
        asyncio.run(run())
    finally:
        system.services[victim].process.send_signal(signal.SIGCONT)
    asyncio.run(check_serves(system))


def test_a_killed_gateway(system: LocalPipeline) -> None:
    async def run() -> None:
        async with endless_film(system) as (film, watching):
            assert all([(await held(system, name))[0] for name in PIPELINE])
            system.services[GATEWAY].kill()
            began = time.monotonic()
            async with asyncio.timeout(KILLED_KNOWN_S):
                await watching
            assert film.error is not None
            assert film.error.code is grpc.StatusCode.UNAVAILABLE
            async with asyncio.timeout(FREED_S - (time.monotonic() - began)):
                await freed(system, besides=GATEWAY)
            LOG.info("gateway killed: all is free after %.2f s", time.monotonic() - began)

    asyncio.run(run())
    revive(system)
    asyncio.run(check_serves(system))
