"""A live session outlives its pipeline: no frame is lost or repeated, and all speech that was accepted is spoken."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np
import pytest

from live_avatar.config import TINY
from live_avatar.serving.errors import from_rpc_error
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import BLOCK_SAMPLES, Gateway, gateway, is_movie, levels, tone, video_format
from tests.services.gateway.fake_pipeline import FakePipeline, fake_pipeline
from tests.services.gateway.live_client import Event, Viewer, viewer
from tests.services.gateway.wire import Wire, relayed
from tests.serving.fakes import until

pytestmark = pytest.mark.alone

BLOCKS = 8
SPEECH = tone(BLOCK_SAMPLES * BLOCKS)


@dataclass
class System:
    """A gateway before pipelines whose lines can be cut."""

    gateway: Gateway
    pipelines: list[FakePipeline]
    heads: list[Wire]
    tails: list[Wire]

    @property
    def serving(self) -> int:
        """Number of the pipeline that holds the session."""
        return next(number for number, one in enumerate(self.pipelines) if one.encoder.sessions)

    def cut(self, *, decoder: bool = False) -> int:
        """Cuts the line to the pipeline that holds the session; returns its number."""
        number = self.serving
        (self.tails if decoder else self.heads)[number].reset()
        return number

    async def session(self) -> api.Session:
        """As GetSession shows the only one."""
        answer = await self.gateway.stub.ListSessions(api.ListSessionsRequest(), timeout=10)
        return answer.sessions[0]

    async def suspended(self) -> None:
        """Returns once the session shows as suspended."""
        async with asyncio.timeout(10):
            while (await self.session()).state != api.Session.STATE_SUSPENDED:  # noqa: ASYNC110 - the gateway is asked
                await asyncio.sleep(0.02)

    async def moved(self, *orders: int) -> int:
        """Returns once the session is on another pipeline than those with these numbers; the number of that."""
        left = [number for number in range(len(self.pipelines)) if number not in orders]
        await until(lambda: any(self.pipelines[number].encoder.sessions for number in left), 10)
        return next(number for number in left if self.pipelines[number].encoder.sessions)


@asynccontextmanager
async def system(pipelines: int = 2, capacity: int = 1, **limits: float) -> AsyncIterator[System]:
    async with fleet([fake_pipeline(capacity) for _ in range(pipelines)], pipelines * capacity, **limits) as running:
        yield running


@asynccontextmanager
async def fleet(
    pipelines: Sequence[AbstractAsyncContextManager[FakePipeline]], capacity: int, **limits: float
) -> AsyncIterator[System]:
    """A gateway before ``pipelines``, which have room for ``capacity`` sessions together."""
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(one) for one in pipelines]
        heads = [await stack.enter_async_context(relayed(one.head)) for one in fakes]
        tails = [await stack.enter_async_context(relayed(one.tail)) for one in fakes]
        addresses = tuple(f"{head.address}/{tail.address}" for head, tail in zip(heads, tails, strict=True))
        settings = {"pipelines": addresses, "limits": limits}
        before = replace(fakes[0], head=heads[0].address, tail=tails[0].address)
        running = await stack.enter_async_context(gateway(before, settings=settings))
        while (await running.info()).session_capacity < capacity:  # noqa: ASYNC110 - the gateway is asked
            await asyncio.sleep(0.02)
        yield System(running, fakes, heads, tails)


@asynccontextmanager
async def speaking(running: System, **config: Any) -> AsyncIterator[Viewer]:
    async with viewer(running.gateway, **config) as one:
        await one.speak(SPEECH)
        await one.end_utterance()
        yield one


def check_whole(one: Viewer, running: System, *orders: int, losses: int = 1) -> None:
    """All blocks came once and in order, and all speech, at the viewer's end and at the model's.

    Args:
        one: the viewer.
        running: the system.
        orders: numbers of the pipelines in the order in which they had the session.
        losses: that the client is told.
    """
    units, frames = one.units(), 0
    assert [unit.block_index for unit in units] == list(range(len(units)))
    for unit in units:
        assert unit.first_frame_index == frames
        frames += unit.frame_count
    assert is_movie(levels(b"".join(unit.data for unit in units), "h264"), frames)
    assert SPEECH in one.spoken()
    model: dict[tuple[str, int], bytes] = {}
    for number in orders:
        model |= running.pipelines[number].encoder.spoken
    received = np.frombuffer(b"".join(model[name] for name in sorted(model)), "<f4")
    assert SPEECH in (received * 32_768).round().astype("<i2").tobytes()
    events = discontinuities(one)
    assert len(events) == losses
    for event in events:
        assert event.media_time.ToNanoseconds() == event.block_index * TINY.frames_per_block * 40_000_000
        assert event.warning.code == grpc.StatusCode.UNAVAILABLE.value[0]


def discontinuities(one: Viewer) -> list[Event]:
    return [event for event in one.events() if event.kind == Event.KIND_DISCONTINUITY]


async def begun(one: Viewer) -> None:
    """Before the first block."""


async def midway(one: Viewer) -> None:
    await one.until_block(3)


async def draining(one: Viewer) -> None:
    await one.until_block(2)
    await one.say(finish=api.StreamAvatarRequest.Finish())
    await one.until_block(4)


@pytest.mark.parametrize("moment", [begun, midway, draining])
@pytest.mark.parametrize("decoder", [False, True])
def test_another_pipeline_goes_on(moment: Callable[[Viewer], Any], decoder: bool) -> None:
    async def scenario() -> None:
        async with system() as running, speaking(running) as one:
            await moment(one)
            lost = running.cut(decoder=decoder)
            await until(lambda: bool(running.pipelines[1 - lost].encoder.sessions), 10)
            session = await running.session()
            assert (session.state, session.epoch) == (api.Session.STATE_ACTIVE, 2)
            await (one.finish() if moment is not draining else asyncio.wait_for(one.ended.wait(), 40))
            assert one.failure is None
            check_whole(one, running, lost, 1 - lost)
            (event,) = discontinuities(one)
            window = TINY.stream.window_blocks
            primed = list(range(max(0, event.block_index - window), event.block_index))
            assert [work.primed for work in running.pipelines[1 - lost].works] == [primed] * 3

    asyncio.run(scenario())


def test_an_mp4_stream_goes_on_after_its_pipeline_froze() -> None:
    """One MP4 file, though its frames come from two encoders."""

    async def scenario() -> None:
        form = video_format(VideoFormat.ENCODING_FMP4)
        async with system() as running, speaking(running, video=form) as one:
            await one.until_block(3)
            lost = running.serving
            running.heads[lost].hold()
            running.tails[lost].hold()
            await one.until_event(Event.KIND_DISCONTINUITY)
            await one.finish()
            units = [unit for unit in one.units() if unit.frame_count]
            assert [unit.block_index for unit in units] == list(range(len(units)))
            frames = sum(unit.frame_count for unit in units)
            assert is_movie(levels(b"".join(unit.data for unit in one.units())), frames)
            assert len(discontinuities(one)) == 1

    asyncio.run(scenario())


def test_its_own_pipeline_goes_on_once_it_is_back() -> None:
    async def scenario() -> None:
        async with system(1) as running, speaking(running) as one:
            await one.until_block(2)
            running.cut()
            await running.suspended()
            await asyncio.sleep(1)
            running.heads[0].mend()
            await one.finish()
            check_whole(one, running, 0)
            await running.gateway.freed()

    asyncio.run(scenario())


def test_a_session_that_nobody_can_go_on_with_ends_with_the_cause() -> None:
    async def scenario() -> None:
        async with system(1, resume_seconds=1) as running, speaking(running) as one:
            await one.until_block(1)
            running.cut()
            await asyncio.wait_for(one.ended.wait(), 20)
            assert one.failure is not None
            assert from_rpc_error(one.failure).reason == "STAGE_LOST"
            assert (await running.session()).end_reason == "STAGE_LOST"

    asyncio.run(scenario())


def test_two_losses_in_a_row() -> None:
    async def scenario() -> None:
        async with system(3) as running, speaking(running) as one:
            await one.until_block(1)
            order = [running.cut()]
            order.append(await running.moved(*order))
            running.heads[order[1]].reset()
            order.append(await running.moved(*order))
            assert sorted(order) == [0, 1, 2]
            await one.finish()
            check_whole(one, running, *order, losses=len(discontinuities(one)))
            assert 1 <= len(discontinuities(one)) <= 2

    asyncio.run(scenario())


def test_a_session_that_loses_its_pipeline_too_often_ends() -> None:
    async def scenario() -> None:
        async with system(3, max_losses_per_minute=1) as running, speaking(running) as one:
            await one.until_block(1)
            running.cut()
            await one.until_event(Event.KIND_DISCONTINUITY)
            await one.until_block(discontinuities(one)[0].block_index)
            for number in (n for n, fake in enumerate(running.pipelines) if fake.encoder.sessions):
                running.heads[number].reset()
            await asyncio.wait_for(one.ended.wait(), 20)
            assert one.failure is not None
            error = from_rpc_error(one.failure)
            assert error.reason == "STAGE_LOST" and "2 times within a minute" in error.message

    asyncio.run(scenario())


def test_speech_that_is_interrupted_meanwhile_is_not_spoken_afterwards() -> None:
    async def scenario() -> None:
        async with system(1) as running, viewer(running.gateway) as one:
            await one.speak(SPEECH, "first")
            await one.until_block(2)
            running.cut()
            await running.suspended()
            await one.say(interrupt=api.StreamAvatarRequest.Interrupt(request_id="one"))
            event = await one.until_event(Event.KIND_UTTERANCE_INTERRUPTED)
            one.talk.drop_utterance()
            second = tone(BLOCK_SAMPLES * 2)[::-1]
            await one.speak(second, "second")
            await one.end_utterance("second")
            running.heads[0].mend()
            await one.finish()
            (gap,) = discontinuities(one)
            assert event.block_index == gap.block_index
            cut = gap.block_index * BLOCK_SAMPLES * 2
            spoken = one.spoken()
            begin = spoken.index(SPEECH[2:200]) - 2
            assert spoken[begin:cut] == SPEECH[: cut - begin]
            assert second in spoken[cut:] and SPEECH[: BLOCK_SAMPLES * 2] not in spoken[cut:]
            encoder = running.pipelines[0].encoder
            model = b"".join(data for (_, block), data in sorted(encoder.spoken.items()) if block >= gap.block_index)
            received = (np.frombuffer(model, "<f4") * 32_768).round().astype("<i2").tobytes()
            assert second in received and received == spoken[cut : cut + len(received)].ljust(len(received), b"\0")

    asyncio.run(scenario())


def test_with_the_limit_at_nothing_a_lost_pipeline_ends_its_sessions() -> None:
    async def scenario() -> None:
        async with system(2, resume_seconds=0) as running, speaking(running) as one:
            await one.until_block(1)
            running.cut()
            await asyncio.wait_for(one.ended.wait(), 20)
            assert one.failure is not None
            assert from_rpc_error(one.failure).reason == "STAGE_LOST"

    asyncio.run(scenario())
