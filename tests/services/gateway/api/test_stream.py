"""What goes in and what comes out, through a real gateway, real sockets and a pipeline of counters."""

import asyncio

import grpc
import numpy as np
import pytest

from live_avatar.config import TINY
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import (
    BLOCK_SAMPLES,
    RATE_HZ,
    Response,
    Talk,
    audio_format,
    create_request,
    is_movie,
    levels,
    movie,
    portrait,
    tone,
    units,
    video_format,
    whole_system,
)
from tests.services.gateway.fake_pipeline import level

DROPPED = TINY.stream.dropped_frames
SWITCH = TINY.stream.sink_switch_block
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
STREAMING = api.LISTENING_STREAMING


@pytest.mark.parametrize("listening", [api.LISTENING_WHOLE_FILE, STREAMING])
def test_the_video_is_as_long_as_the_speech(listening: int) -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            for samples, frames in ((BLOCK_SAMPLES * 7 + 1_000, 84 + 2 - DROPPED), (BLOCK_SAMPLES, 12 - DROPPED)):
                received = await movie(running, samples, listening=listening)
                assert is_movie(levels(b"".join(unit.data for unit in units(received))), frames)
                video = [unit for unit in units(received) if unit.frame_count]
                assert [unit.block_index for unit in video] == list(range(-(-samples // BLOCK_SAMPLES)))
                assert sum(unit.frame_count for unit in video) == frames
                assert video[0].span.start_time.ToMilliseconds() == 120
                assert video[-1].span.end_time.ToMilliseconds() == (frames + DROPPED) * 40
                assert [response.server_sequence for response in received] == list(range(len(received)))
            await running.freed()

    asyncio.run(scenario())


def test_the_pipeline_receives_what_was_spoken() -> None:
    """Whole files as fast as they come, streams block by block with the look-ahead and no more."""

    async def scenario() -> None:
        async with whole_system() as running:
            encoder, samples = running.pipeline.encoder, BLOCK_SAMPLES * 3 + 77
            kept: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
            encoder.before_block = lambda block: kept.append(encoder.received(next(iter(encoder.sessions))))
            for listening in (api.LISTENING_WHOLE_FILE, STREAMING):
                kept.clear()
                await movie(running, samples, listening=listening)
                spoken = np.frombuffer(tone(RATE_HZ)[: 2 * RATE_HZ], "<i2")[:BLOCK_SAMPLES] / 32_768
                assert np.allclose(kept[0][:BLOCK_SAMPLES], spoken, atol=1e-4)
                received = [one.size for one in kept]
                lookahead = round(TINY.stream.lookahead_s * RATE_HZ)
                streamed = [min(samples, (block + 1) * BLOCK_SAMPLES + lookahead) for block in range(4)]
                assert received == (streamed if listening == STREAMING else [samples] * 4)
                await running.freed()

    asyncio.run(scenario())


def test_what_holds_for_the_session_goes_down_before_its_blocks() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            await movie(running, BLOCK_SAMPLES * 6, prompt="a fox", seed=2**63, fit=api.FIT_REFERENCE)
            encoder, decoder = running.pipeline.encoder, running.pipeline.decoder
            assert [first for first, _ in encoder.bodies] == [0, SWITCH]
            assert [body.sink.version for _, body in encoder.bodies] == [0, 1]
            assert [body.prompt for _, body in encoder.bodies] == ["a fox", ""]
            assert encoder.bodies[0][1].sink.reference.data == bytes(1_500_000)
            assert [(one.width, one.height, one.fit) for one in decoder.portraits] == [(64, 64, api.FIT_REFERENCE)]

    asyncio.run(scenario())


def test_the_switch_block_waits_for_the_new_sink() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            running.pipeline.decoder.sends_sink = False
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                await talk.speak(tone(BLOCK_SAMPLES * 8))
                await talk.finish()
                seen = [unit.block_index for unit in units([await talk.receive() for _ in range(SWITCH + 1)])]
                assert seen == list(range(SWITCH))
                following = asyncio.create_task(talk.receive())
                await asyncio.sleep(0.3)
                assert not following.done()
                following.cancel()
            await running.freed()

    asyncio.run(scenario())


def test_raw_pictures_and_access_units_come_with_the_speech_beside_them() -> None:
    async def scenario() -> None:
        samples = BLOCK_SAMPLES * 2 + 4_000
        frames = 24 + 7 - DROPPED
        async with whole_system() as running:
            raw = await movie(running, samples, video=video_format(VideoFormat.ENCODING_RAW_RGB24))
            pictures = units(raw)
            assert [one.first_frame_index for one in pictures] == list(range(frames))
            assert all(one.data == bytes([level(n)]) * (64 * 64 * 3) for n, one in enumerate(pictures))
            coded = await movie(running, samples, video=video_format(VideoFormat.ENCODING_H264_ANNEXB))
            assert is_movie(levels(b"".join(one.data for one in units(coded)), "h264"), frames)
            for received in (raw, coded):
                spoken = [one.audio_unit for one in received if one.HasField("audio_unit")]
                assert b"".join(one.data for one in spoken) == tone(RATE_HZ) + tone(samples - RATE_HZ)
                assert [one.span.start_time.ToMilliseconds() for one in spoken] == [0, 480, 960]
                assert spoken[-1].span.end_time.ToNanoseconds() == samples * 10**9 // RATE_HZ

    asyncio.run(scenario())


def test_utterances_follow_each_other_and_are_reported() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            made = await running.create(listening=STREAMING, video=video_format(VideoFormat.ENCODING_H264_ANNEXB))
            async with Talk(running.stub) as talk:
                received = [await talk.open(made.session_token)]
                await talk.speak(tone(5_000), utterance="one")
                await talk.end_utterance("one")
                while not any(one.event.kind == Response.Event.KIND_UTTERANCE_FINISHED for one in received):
                    received.append(await talk.receive())
                await talk.speak(tone(5_000), utterance="two")
                await talk.finish()
                received += await talk.rest()
            reported = [(one.event.kind, one.event.utterance_id) for one in received if one.HasField("event")]
            begun, ended = Response.Event.KIND_UTTERANCE_STARTED, Response.Event.KIND_UTTERANCE_FINISHED
            assert reported == [(begun, "one"), (ended, "one"), (begun, "two"), (ended, "two")]
            spoken = b"".join(one.audio_unit.data for one in received if one.HasField("audio_unit"))
            second = BLOCK_SAMPLES + round(TINY.stream.lookahead_s * RATE_HZ)
            assert spoken[:10_000] == tone(5_000)
            assert spoken[10_000 : 2 * second] == bytes(2 * second - 10_000)
            assert spoken[2 * second :] == tone(5_000)
            assert next(one.audio_unit.utterance_id for one in received if one.HasField("audio_unit")) == "one"

    asyncio.run(scenario())


def test_no_unit_comes_without_a_credit_and_no_block_is_made_for_nobody() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token, credits=2)
                await talk.speak(tone(BLOCK_SAMPLES * 12))
                await talk.finish()
                received = [await talk.receive() for _ in range(3)]
                assert len(units(received)) == 2
                following = asyncio.create_task(talk.receive())
                await asyncio.sleep(0.5)
                assert not following.done()
                assert running.pipeline.encoder.blocks_seen <= 2 + len(running.pipeline.works)
                await talk.grant(100)
                received += [await following, *await talk.rest()]
                assert sum(unit.frame_count for unit in units(received)) == 12 * 12 - DROPPED

    asyncio.run(scenario())


def test_a_client_that_takes_nothing_is_let_go() -> None:
    async def scenario() -> None:
        async with whole_system(settings={"limits": {"slow_consumer_seconds": 1}}) as running:
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token, credits=1)
                await talk.speak(tone(BLOCK_SAMPLES * 4))
                await talk.finish()
                error = await talk.failure()
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")
            await running.freed()

    asyncio.run(scenario())


def test_two_sessions_at_once_do_not_mix() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            movies = await asyncio.gather(
                *(movie(running, BLOCK_SAMPLES * 6, seed=seed, listening=STREAMING) for seed in range(4))
            )
            for seed, received in enumerate(movies):
                assert is_movie(levels(b"".join(unit.data for unit in units(received))), 72 - DROPPED, seed)

    asyncio.run(scenario())


def test_speech_that_waits_is_bounded_and_flows_as_video_is_taken() -> None:
    """Far more speech than may wait, sent at once: it is read no faster than video is made of it."""

    async def scenario() -> None:
        seconds = 60
        async with whole_system() as running, Talk(running.stub) as talk:
            made = await running.create(listening=STREAMING, video=video_format(VideoFormat.ENCODING_H264_ANNEXB))
            await talk.open(made.session_token, credits=4)
            speaking = asyncio.create_task(speak_for(talk, seconds))
            frames = 0
            while frames < seconds * 25 - DROPPED:
                new = units([await talk.receive()])
                frames += sum(unit.frame_count for unit in new)
                await talk.grant(len(new), now=speaking.done())
            await speaking
            await talk.rest()

    asyncio.run(scenario())


async def speak_for(talk: Talk, seconds: int) -> None:
    for _ in range(seconds):
        await talk.speak(bytes(2 * RATE_HZ))
    await talk.finish()


def test_timings_name_every_service_once() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            received = await movie(running, BLOCK_SAMPLES * 2)
            for unit in units(received):
                if unit.frame_count:
                    assert [timing.service for timing in unit.timings] == [
                        "audio-encoder", "denoise-stage-0", "vae-decoder", "gateway"
                    ]  # fmt: skip

    asyncio.run(scenario())


def test_the_server_reports_what_it_serves() -> None:
    async def scenario() -> None:
        async with whole_system(capacity=3) as running:
            await running.create()
            info = await running.info()
            assert (info.preset, info.samples_per_second, info.frames_per_second) == ("TINY", RATE_HZ, 25)
            assert (info.sessions_open, info.session_capacity) == (1, 3)
            assert info.limits.max_message_bytes == 4 * 2**20
            assert info.limits.idle_timeout.ToSeconds() == 60
            assert "ready" in info.pipelines[0]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("size", "asked", "enlarged"),
    [
        ((64, 64), VideoFormat(), 4),
        ((640, 360), VideoFormat(), 4),
        ((64, 64), VideoFormat(enlargement=1), 1),
        ((64, 64), VideoFormat(enlargement=8), 8),
        ((64, 64), VideoFormat(encoding=VideoFormat.ENCODING_RAW_RGB24, enlargement=2), 1),
    ],
)
def test_the_pictures_shape_follows_the_portrait(size: tuple[int, int], asked: VideoFormat, enlarged: int) -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            request = create_request(audio=audio_format(8_000), video=asked)
            request.reference_image = portrait(size, "JPEG")
            made = await running.stub.CreateSession(request, timeout=20)
            video = made.session.config.video
            assert video.enlargement == enlarged
            assert video.width % enlarged == 0 and video.height % enlarged == 0
            assert video.width * video.height <= TINY.max_area * enlarged**2
            async with Talk(running.stub) as talk:
                opened = await talk.open(made.session_token)
            assert opened.opened.negotiated_video == video

    asyncio.run(scenario())
