"""Sessions that are not live, and those that nobody has opened, outlive their pipeline as well."""

import asyncio

import numpy as np
import pytest

from live_avatar.config import TINY
from live_avatar.serving.errors import from_status
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import BLOCK_SAMPLES, RATE_HZ, Response, Talk, is_movie, levels, tone, units
from tests.services.gateway.fake_pipeline import FakePipeline
from tests.services.gateway.sessions.test_recovery import System, system
from tests.serving.fakes import until

pytestmark = pytest.mark.alone

BLOCKS = 10
SPEECH = tone(BLOCK_SAMPLES * BLOCKS)
Event = api.StreamAvatarResponse.Event
LISTENING = [api.LISTENING_WHOLE_FILE, api.LISTENING_STREAMING]


async def until_block(talk: Talk, block: int) -> list[Response]:
    """What comes up to the first unit of ``block``."""
    received = [await talk.receive()]
    while not received[-1].HasField("video_unit") or received[-1].video_unit.block_index < block:
        received.append(await talk.receive())
    return received


def causes(received: list[Response]) -> list[str]:
    events = [one.event for one in received if one.HasField("event")]
    return [from_status(event.warning).reason for event in events if event.kind == Event.KIND_DISCONTINUITY]


def check_whole(received: list[Response]) -> None:
    """All blocks came once and in order."""
    made = [unit for unit in units(received) if unit.frame_count]
    assert [unit.block_index for unit in made] == list(range(BLOCKS))
    frames = BLOCKS * TINY.frames_per_block - TINY.stream.dropped_frames
    assert is_movie(levels(b"".join(unit.data for unit in units(received))), frames)


def check_received(fake: FakePipeline, first: int) -> None:
    """The encoder got all speech from the first sample that it needs to go on, and nothing before it."""
    (spoken,) = fake.encoder.sent.values()
    expected = np.frombuffer(SPEECH, "<i2")[first:] / np.float32(32_768)
    assert np.array_equal(np.frombuffer(spoken, "<f4")[: expected.size], expected)


@pytest.mark.parametrize("listening", LISTENING)
@pytest.mark.parametrize("decoder", [False, True])
def test_another_pipeline_goes_on(listening: "api.Listening.ValueType", decoder: bool) -> None:
    async def scenario() -> None:
        async with system() as running:
            made = await running.gateway.create(listening=listening)
            async with Talk(running.gateway.stub) as talk:
                await talk.open(made.session_token, credits=6)
                for first in range(0, len(SPEECH), 2 * RATE_HZ):
                    await talk.speak(SPEECH[first : first + 2 * RATE_HZ])
                await talk.finish()
                received = await until_block(talk, 3)
                lost = running.cut(decoder=decoder)
                await running.moved(lost)
                await talk.grant(100)
                received += await talk.rest()
            check_whole(received)
            assert causes(received) == ["STAGE_LOST"]
            other = running.pipelines[1 - lost]
            assert other.decoder.primed and other.decoder.primed == other.encoder.primed
            next_block = other.decoder.primed[-1] + 1
            left_context = round(TINY.stream.left_context_s * RATE_HZ)
            whole = listening == api.LISTENING_WHOLE_FILE
            check_received(other, 0 if whole else max(0, next_block * BLOCK_SAMPLES - left_context))

    asyncio.run(scenario())


def test_a_session_is_placed_again_whose_stream_nobody_has_opened() -> None:
    async def scenario() -> None:
        async with system() as running:
            made = await running.gateway.create()
            lost = running.cut()
            await running.moved(lost)
            check_whole(await movie_of(running, made))

    asyncio.run(scenario())


def test_a_stream_may_be_opened_while_its_session_has_no_pipeline() -> None:
    async def scenario() -> None:
        async with system(1) as running:
            made = await running.gateway.create()
            running.cut()
            await running.suspended()
            watching = asyncio.create_task(movie_of(running, made))
            await asyncio.sleep(0.2)
            running.heads[0].mend()
            received = await watching
            check_whole(received)
            assert causes(received) == ["STAGE_LOST"]

    asyncio.run(scenario())


def test_a_portrait_that_was_being_encoded_is_encoded_elsewhere() -> None:
    async def scenario() -> None:
        async with system() as running:
            for fake in running.pipelines:
                fake.decoder.portrait_encoded.clear()
            made = await running.gateway.create()
            await until(lambda: any(fake.decoder.portraits for fake in running.pipelines))
            lost = running.cut(decoder=True)
            running.pipelines[1 - lost].decoder.portrait_encoded.set()
            check_whole(await movie_of(running, made))
            running.pipelines[lost].decoder.portrait_encoded.set()

    asyncio.run(scenario())


async def movie_of(running: System, made: api.CreateSessionResponse) -> list[Response]:
    async with Talk(running.gateway.stub) as talk:
        received = [await talk.open(made.session_token)]
        await talk.speak(SPEECH)
        await talk.finish()
        return received + await talk.rest()
