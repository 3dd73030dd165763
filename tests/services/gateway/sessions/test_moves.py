"""Pipelines that are about to end give up their sessions before they do, and the sessions lose nothing by it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from live_avatar.services.gateway.sessions.moves import MOVED_TOGETHER
from live_avatar.serving.errors import from_status
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import Talk, units
from tests.services.gateway.fake_pipeline import FakePipeline
from tests.services.gateway.live_client import Event, Viewer, viewer
from tests.services.gateway.sessions.test_recovery import (
    SPEECH,
    check_whole,
    discontinuities,
    speaking,
    system,
)

pytestmark = pytest.mark.alone

LEAVE_S = 20.0


@asynccontextmanager
async def draining(fake: FakePipeline, *services: int) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """The drains of some services of a pipeline, by their place in the chain."""
    drains = [asyncio.create_task(fake.hops[service].drain()) for service in services]
    try:
        yield drains
    finally:
        for drain in drains:
            drain.cancel()
        await asyncio.gather(*drains, return_exceptions=True)


async def left(drains: list["asyncio.Task[None]"]) -> None:
    """Returns once the services hold no session."""
    async with asyncio.timeout(LEAVE_S):
        await asyncio.gather(*drains)


def reasons(one: Viewer) -> list[str]:
    return [from_status(event.warning).reason for event in discontinuities(one)]


@pytest.mark.parametrize("services", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_session_leaves_a_pipeline_of_which_a_service_drains(services: tuple[int, ...]) -> None:
    async def scenario() -> None:
        async with system() as running, speaking(running) as one:
            await one.until_block(3)
            before = running.serving
            async with draining(running.pipelines[before], *services) as drains:
                await left(drains)
                session = await running.session()
                assert (session.state, session.epoch) == (api.Session.STATE_ACTIVE, 2)
                await one.until_event(Event.KIND_DISCONTINUITY)
                await one.finish()
            check_whole(one, running, before, 1 - before)
            assert reasons(one) == ["DRAINING"]
            assert running.pipelines[1 - before].stage.primed, "nothing primed the new pipeline"

    asyncio.run(scenario())


def test_without_a_place_a_session_stays_until_there_is_one() -> None:
    async def scenario() -> None:
        async with system() as running, speaking(running) as one:
            await one.until_block(1)
            before = running.serving
            other = await running.gateway.create()
            async with draining(running.pipelines[before], 0) as drains:
                await one.until_block(5)
                assert not drains[0].done() and not discontinuities(one)
                await running.gateway.stub.CloseSession(
                    api.CloseSessionRequest(session_id=other.session.session_id), timeout=10
                )
                await left(drains)
                await one.until_event(Event.KIND_DISCONTINUITY)
                await one.finish()
            check_whole(one, running, before, 1 - before)

    asyncio.run(scenario())


def test_a_session_that_cannot_be_opened_elsewhere_goes_on_where_it_is() -> None:
    async def scenario() -> None:
        async with system() as running, speaking(running) as one:
            await one.until_block(1)
            before = running.serving
            stage = running.pipelines[1 - before].stage
            stage.capacity = 0
            async with draining(running.pipelines[before], 0) as drains:
                await one.until_block(5)
                assert not drains[0].done() and not discontinuities(one)
                stage.capacity = 1
                await left(drains)
                await one.until_event(Event.KIND_DISCONTINUITY)
                await one.finish()
            check_whole(one, running, before, 1 - before)

    asyncio.run(scenario())


def test_a_pipeline_that_is_lost_while_its_session_leaves_is_recovered_from() -> None:
    async def scenario() -> None:
        async with system() as running, speaking(running) as one:
            await one.until_block(2)
            before = running.serving
            elsewhere = running.pipelines[1 - before]
            elsewhere.stage.before_block = lambda block: running.heads[before].reset() if block.prime else None
            async with draining(running.pipelines[before], 0):
                await one.finish()
            check_whole(one, running, before, 1 - before)

    asyncio.run(scenario())


def test_all_sessions_of_a_full_pipeline_leave_a_few_at_a_time() -> None:
    async def scenario() -> None:
        async with system(2, capacity=MOVED_TOGETHER + 2) as running, AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(viewer(running.gateway)) for _ in range(MOVED_TOGETHER + 2)]
            for one in viewers:
                await one.speak(SPEECH)
                await one.until_block(1)
            before = max(running.pipelines, key=lambda fake: len(fake.encoder.sessions))
            leaving = len(before.encoder.sessions)
            async with draining(before, 0, 1, 2) as drains:
                await left(drains)
                for one in viewers:
                    await one.finish()
            assert (
                sorted(len(discontinuities(one)) for one in viewers) == [0] * (len(viewers) - leaving) + [1] * leaving
            )

    asyncio.run(scenario())


def test_a_session_that_nobody_has_opened_leaves_too_and_nobody_notices() -> None:
    async def scenario() -> None:
        async with system() as running:
            made = await running.gateway.create(listening=api.LISTENING_STREAMING)
            before = running.serving
            async with draining(running.pipelines[before], 1) as drains:
                await left(drains)
                async with Talk(running.gateway.stub) as talk:
                    await talk.open(made.session_token)
                    await talk.speak(SPEECH)
                    await talk.finish()
                    received = await talk.rest()
                    assert [unit.block_index for unit in units(received) if unit.frame_count] == list(range(8))
                    assert not [one for one in received if one.HasField("event") and one.event.HasField("warning")]

    asyncio.run(scenario())
