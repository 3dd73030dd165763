"""Streams that never say whose they are do not stay, and keep nobody out."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest

from live_avatar.services.gateway.api.unopened import UnopenedStreams
from live_avatar.serving.errors import ServiceError
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.clients import Talk, tone, units, whole_system

DEADLINE, EXHAUSTED = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_stream_without_an_open_ends_in_time() -> None:
    async def scenario() -> None:
        async with whole_system(settings={"limits": {"open_timeout_seconds": 0.3}}) as running:
            async with Talk(running.stub) as silent:
                error = await silent.failure()
            assert (error.code, error.reason) == (DEADLINE, "OPEN_MISSING")
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                await asyncio.sleep(0.6)
                await talk.speak(tone(8_000))
                await talk.finish()
                assert units(await talk.rest())

    asyncio.run(scenario())


def test_who_opens_at_once_is_served_while_others_never_do() -> None:
    limits = {"max_unopened_streams": 8, "open_timeout_seconds": 30}

    async def scenario() -> None:
        async with (
            whole_system(settings={"limits": limits}) as running,
            AsyncExitStack() as stack,
            grpc.aio.insecure_channel(running.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
        ):
            others = [await stack.enter_async_context(Talk(AvatarServiceStub(channel))) for _ in range(40)]
            ends = [asyncio.ensure_future(one.failure()) for one in others]
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                await talk.speak(tone(8_000))
                await talk.finish()
                assert units(await talk.rest())
            done = [end.result() for end in ends if end.done()]
            assert len(done) >= 40 - 8
            assert {(error.code, error.reason) for error in done} == {(EXHAUSTED, "TOO_MANY_STREAMS")}
            assert all(error.retry_after_s for error in done)
            for end in ends:
                end.cancel()

    asyncio.run(scenario())


def test_the_oldest_of_the_largest_crowd_makes_room() -> None:
    async def scenario() -> None:
        streams = UnopenedStreams(4, 60)
        forever = asyncio.Event()
        crowd = [asyncio.create_task(streams.first("crowd", forever.wait())) for _ in range(3)]
        lone = asyncio.create_task(streams.first("lone", forever.wait()))
        await asyncio.sleep(0)
        newer = asyncio.create_task(streams.first("newer", forever.wait()))
        with pytest.raises(ServiceError, match="TOO_MANY_STREAMS"):
            await crowd[0]
        assert len(streams) == 4
        forever.set()
        await asyncio.gather(*crowd[1:], lone, newer)
        assert len(streams) == 0

    asyncio.run(scenario())


def test_who_waits_is_forgotten_however_it_ends() -> None:
    async def scenario() -> None:
        streams = UnopenedStreams(4, 0.05)
        with pytest.raises(ServiceError, match="OPEN_MISSING"):
            await streams.first("late", asyncio.sleep(60))
        gone = asyncio.create_task(streams.first("gone", asyncio.sleep(60)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone

        async def raising() -> None:
            raise TimeoutError("of its own")

        with pytest.raises(TimeoutError, match="of its own"):
            await streams.first("raising", raising())
        assert len(streams) == 0

    asyncio.run(scenario())
