"""Live delivery through a real gateway, real sockets and a pipeline of counters."""

import asyncio
import random
import resource
import statistics
import time
from contextlib import AsyncExitStack

import grpc
import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest
from live_avatar.serving.errors import ServiceError, from_status
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import (
    BLOCK_SAMPLES,
    RATE_HZ,
    SMALL_WINDOWS,
    Gateway,
    Request,
    Talk,
    failure,
    is_movie,
    levels,
    tone,
    units,
    video_format,
    whole_system,
)
from tests.services.gateway.live_client import DROPPED, FPS, Event, Viewer, viewer

pytestmark = pytest.mark.alone

STARTED, FINISHED = Event.KIND_UTTERANCE_STARTED, Event.KIND_UTTERANCE_FINISHED
INTERRUPTED, APPLIED = Event.KIND_UTTERANCE_INTERRUPTED, Event.KIND_UPDATE_APPLIED
DEGRADED, RECOVERED = Event.KIND_DEGRADED, Event.KIND_RECOVERED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
BARGE_INS = 100


def test_an_avatar_idles_at_the_pace_of_playback_until_somebody_speaks() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            await one.until_block(6)
            assert all(unit.idle for unit in one.units())
            assert one.frames - one.position() <= 25
            begun = len(one.units())
            await one.speak(tone(RATE_HZ), "hello")
            await one.end_utterance("hello")
            started = await one.until_event(STARTED)
            assert started.utterance_id == "hello"
            assert started.block_index <= begun + 1
            finished = await one.until_event(FINISHED)
            await one.finish()
            units = one.units()
            assert [unit.block_index for unit in units] == list(range(len(units)))
            assert sum(unit.frame_count for unit in units) == len(units) * 12 - DROPPED
            spoken = [unit.block_index for unit in units if not unit.idle]
            assert spoken == [started.block_index + offset for offset in range(3)]
            first = started.block_index * BLOCK_SAMPLES
            assert started.media_time.ToNanoseconds() == first * 10**9 // RATE_HZ
            assert finished.media_time.ToNanoseconds() == (first + RATE_HZ) * 10**9 // RATE_HZ
            assert one.spoken()[2 * first : 2 * (first + RATE_HZ)] == tone(RATE_HZ)
            assert not any(one.spoken()[: 2 * first])
            assert len(one.spoken()) == 2 * BLOCK_SAMPLES * len(units)
            assert [timing.service for timing in units[-1].timings][-1] == "gateway"

    asyncio.run(scenario())


def test_the_units_of_a_live_session_are_a_video() -> None:
    async def scenario() -> None:
        form = video_format(VideoFormat.ENCODING_FMP4)
        async with whole_system() as running, viewer(running, video=form) as one:
            await one.speak(tone(RATE_HZ))
            await one.until_block(5)
            await one.finish()
            found = levels(b"".join(unit.data for unit in one.units()))
            assert is_movie(found, len(found))
            assert len(found) >= 6 * 12 - DROPPED

    asyncio.run(scenario())


def test_a_prompt_changes_at_the_same_block_on_all_stages() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            await one.until_block(5)
            mask = FieldMask(paths=["prompt"])
            await one.say(update=Request.Update(config=api.SessionConfig(prompt="a fox"), update_mask=mask))
            reported = await one.until_event(APPLIED)
            session_id = next(iter(running.pipeline.encoder.sessions))[0]
            request = api.UpdateSessionRequest(
                session_id=session_id, config=api.SessionConfig(prompt="a hen"), update_mask=mask
            )
            answer = await running.stub.UpdateSession(request, timeout=20)
            assert (await one.until_event(APPLIED, 2)).block_index == answer.effective_block_index
            assert answer.session.config.prompt == "a hen"
            stored = await running.stub.GetSession(api.GetSessionRequest(session_id=session_id), timeout=20)
            assert stored.session.config.prompt == "a hen"
            for work in running.pipeline.works:
                changes = [(first, body.prompt) for first, body in work.bodies if body.prompt]
                assert changes == [(reported.block_index, "a fox"), (answer.effective_block_index, "a hen")]

    asyncio.run(scenario())


def test_late_speech_is_reported_and_stalls_nobody() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            await one.until_block(4)
            await one.speak(tone(RATE_HZ), "halting")
            degraded = await until_reported(one, DEGRADED, "AUDIO_STARVED")
            assert degraded.utterance_id == "halting"
            await one.until_block(degraded.block_index + 3)
            await one.speak(tone(RATE_HZ), "halting")
            await one.end_utterance("halting")
            await until_reported(one, RECOVERED, "AUDIO_STARVED")
            await one.until_event(FINISHED)
            assert [reason(event) for event in one.events() if event.kind == DEGRADED].count("AUDIO_STARVED") == 1
            assert one.frames - one.position() <= 30

    asyncio.run(scenario())


def reason(event: Event) -> str:
    """Of the problem that an event warns of."""
    return from_status(event.warning).reason


async def until_reported(one: Viewer, kind: int, what: str, **metadata: str) -> Event:
    """The first event of a kind for a reason, with ``metadata`` among its facts, once it has come."""

    def fits(event: Event) -> bool:
        facts = from_status(event.warning).metadata.items()
        return event.kind == kind and reason(event) == what and metadata.items() <= facts

    async with asyncio.timeout(15):
        while not (found := list(filter(fits, one.events()))):
            assert not one.ended.is_set(), f"the stream ended: {one.failure}"
            await asyncio.sleep(0.005)
    return found[0]


def test_a_pipeline_that_is_too_slow_is_reported_with_what_is_slow_in_it() -> None:
    async def scenario() -> None:
        # Blocks enter early enough to be in time on a busy machine, too.
        early = {"live": {"margin_ms": 400}}
        async with whole_system(settings=early) as running, viewer(running) as one:
            await one.until_block(3)
            running.pipeline.stage.before_block = lambda block: time.sleep(0.9)
            await one.until_block(max(unit.block_index for unit in one.units()) + 5)
            error = from_status((await until_reported(one, DEGRADED, "PIPELINE_SLOW")).warning)
            assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert int(error.metadata["late_ms"]) > 0
            running.pipeline.stage.before_block = lambda block: None
            recovered = await until_reported(one, RECOVERED, "PIPELINE_SLOW", service="denoise-stage-0")
            assert int(from_status(recovered.warning).metadata["lost_ms"]) > 100
            kinds = [event.kind for event in one.events() if reason(event) == "PIPELINE_SLOW"]
            assert kinds == [(DEGRADED, RECOVERED)[index % 2] for index in range(len(kinds))]
            await one.finish()

    asyncio.run(scenario())


def test_an_utterance_that_was_interrupted_on_its_way_does_not_begin_afterwards() -> None:
    """Its blocks were admitted, and come from a slow pipeline long after the barge-in."""

    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            await one.until_block(3)
            running.pipeline.stage.before_block = lambda block: time.sleep(0.7)
            idle = set[bool]()
            running.pipeline.encoder.before_block = lambda block: idle.add(block.idle)
            await one.speak(tone(2 * RATE_HZ), "late")
            await one.end_utterance("late")
            while False not in idle:  # noqa: ASYNC110 - the encoder works in a thread
                await asyncio.sleep(0.01)
            await one.say(interrupt=Request.Interrupt())
            clean = (await one.until_event(INTERRUPTED)).block_index
            one.talk.drop_utterance()
            running.pipeline.stage.before_block = lambda block: None
            await one.speak(tone(RATE_HZ), "next")
            await one.end_utterance("next")
            await one.until_block(clean + 1)
            await one.finish()
            kinds = {
                name: [event.kind for event in one.events() if event.utterance_id == name] for name in ("late", "next")
            }
            assert kinds["late"] in ([INTERRUPTED], [STARTED, INTERRUPTED])
            assert kinds["next"] == [STARTED, FINISHED]
            assert any(not unit.idle for unit in one.units() if unit.block_index < clean)

    asyncio.run(scenario())


def test_a_client_that_grants_no_credits_is_informed_what_the_video_waits_for() -> None:
    async def scenario() -> None:
        form = video_format(VideoFormat.ENCODING_H264_ANNEXB)
        patient = {"limits": {"live_slow_consumer_seconds": 10}}
        async with whole_system(settings=patient) as running, Talk(running.stub) as talk, asyncio.timeout(15):
            made = await running.create(delivery=api.DELIVERY_LIVE, video=form)
            await talk.open(made.session_token, credits=4)
            reasons = set[str]()
            while "CLIENT_SLOW" not in reasons:
                response = await talk.receive()
                if response.event.kind == DEGRADED:
                    reasons.add(reason(response.event))

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_hundred_barge_ins_at_random_moments() -> None:
    """Each is acknowledged, exact to a frame, and nothing of its utterance comes at or after the first clean block."""
    rng = random.Random(0)
    received: dict[int, set[int]] = {}

    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            encoder = running.pipeline.encoder

            def listen(block: StreamBlocksRequest.Block) -> None:
                samples = encoder.received((block.key.session_id, block.key.epoch))[block.index * BLOCK_SAMPLES :]
                received[block.index] = set(np.unique(np.round(samples * 32_768)).astype(int).tolist()) - {0}

            encoder.before_block = listen
            await one.until_block(4)
            clean, grown = [0], 0
            for index in range(1, BARGE_INS + 1):
                await one.speak(np.full(3 * RATE_HZ, 100 * index, "<i2").tobytes(), f"number {index}")
                await asyncio.sleep(rng.uniform(0.02, 0.4))
                clean.append(await barge_in(one, index))
                if index == BARGE_INS // 4:
                    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown
            assert grown < 8_000, f"{grown} KiB more"
            await one.finish()
            assert clean == sorted(clean)
            check_clean(one, clean)
            assert [event.kind for event in one.events()].count(FINISHED) == 0

    asyncio.run(scenario())


async def barge_in(one: Viewer, index: int) -> int:
    """Interrupts, and returns the first block that is promised to be clean."""
    before = one.position()
    await one.report()
    one.talk.drop_utterance()
    await one.say(interrupt=Request.Interrupt())
    event = await one.until_event(INTERRUPTED, index)
    reported = event.media_time.ToNanoseconds() * FPS / 1e9 - DROPPED
    assert before - 1 <= reported <= one.position() + 1, (before, reported, one.position())
    assert event.utterance_id == f"number {index}"
    return event.block_index


def check_clean(one: Viewer, clean: list[int]) -> None:
    """No sample of an utterance is played from its first clean block on."""
    played = np.frombuffer(one.spoken(), "<i2")
    for index in range(1, BARGE_INS + 1):
        assert not (played[clean[index] * BLOCK_SAMPLES :] == 100 * index).any(), index


def test_an_interruption_by_call_is_done_once() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            await one.until_block(5)
            await one.speak(tone(2 * RATE_HZ), "long")
            await one.until_event(STARTED)
            session_id = next(iter(running.pipeline.encoder.sessions))[0]
            request = api.InterruptSessionRequest(session_id=session_id, request_id="once")
            answers = [await running.stub.InterruptSession(request, timeout=20) for _ in range(3)]
            assert answers[0] == answers[1] == answers[2]
            event = await one.until_event(INTERRUPTED)
            assert event.block_index == answers[0].first_clean_block_index
            # The client did not know, and goes on: what it says belongs to what was interrupted.
            await one.speak(tone(RATE_HZ), "long")
            await one.end_utterance("long")
            await one.until_block(event.block_index + 3)
            assert all(unit.idle for unit in one.units() if unit.block_index >= event.block_index)
            assert [one.kind for one in one.events()].count(INTERRUPTED) == 1
            assert not any(one.kind == FINISHED for one in one.events())

    asyncio.run(scenario())


def test_three_times_the_capacity_arrives() -> None:
    async def scenario() -> None:
        async with whole_system(capacity=2) as running, AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(viewer(running)) for _ in range(2)]
            for one in viewers:
                await one.until_block(4)
            before, stalls, seconds = [one.frames for one in viewers], [one.stalls for one in viewers], []
            began = time.monotonic()
            while time.monotonic() - began < 3:
                asked = time.monotonic()
                error = await failure(lambda: running.create(delivery=api.DELIVERY_LIVE))
                seconds.append(time.monotonic() - asked)
                assert (error.code, error.reason) == (EXHAUSTED, "CAPACITY_EXHAUSTED")
                assert error.retry_after_s
                await asyncio.sleep(0.1)
            assert statistics.median(seconds) < 0.2
            assert [one.stalls for one in viewers] == stalls
            for one, frames in zip(viewers, before, strict=True):
                assert not one.dry()
                assert one.frames - frames > FPS
            assert (await running.info()).sessions_open == 2
            assert len(running.pipeline.encoder.sessions) == 2

    asyncio.run(scenario())


def test_a_pipeline_takes_no_more_live_sessions_than_it_keeps_up_with() -> None:
    async def scenario() -> None:
        async with whole_system(capacity=8) as running, AsyncExitStack() as stack:
            running.pipeline.stage.before_block = lambda block: time.sleep(0.15)
            viewers = [await stack.enter_async_context(viewer(running))]
            await viewers[0].until_block(9)
            viewers.append(await stack.enter_async_context(viewer(running)))
            error = await failure(lambda: running.create(delivery=api.DELIVERY_LIVE))
            assert (error.code, error.reason) == (EXHAUSTED, "CAPACITY_EXHAUSTED")
            await viewers[1].until_block(8)
            positions = [one.frames for one in viewers]
            await asyncio.sleep(7.2)
            gained = [one.frames - frames for one, frames in zip(viewers, positions, strict=True)]
            # Frames come in blocks of 12, so either count may be a block off at both ends.
            assert gained == [pytest.approx(180, abs=25)] * 2
            assert (sum(gained) ** 2) / (2 * sum(one**2 for one in gained)) >= 0.97

    asyncio.run(scenario())


def test_a_reader_who_stops_is_ended_and_its_neighbour_does_not_notice() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as neighbour:
            await neighbour.until_block(4)
            form = video_format(VideoFormat.ENCODING_RAW_RGB24)
            made = await running.create(delivery=api.DELIVERY_LIVE, video=form)
            stalls = neighbour.stalls
            error = await deaf_for(running, made.session_token)
            assert (error.code, error.reason) == (EXHAUSTED, "SLOW_CONSUMER")
            # Blocks come half a second to a second before they are played: to come a little late is not to be noticed.
            assert neighbour.stalls == stalls
            assert not neighbour.dry()

    asyncio.run(scenario())


async def deaf_for(running: Gateway, token: str) -> ServiceError:
    """Opens a stream on a connection of its own and reads nothing until the gateway gives up; says how."""
    async with (
        grpc.aio.insecure_channel(running.target, options=SMALL_WINDOWS) as channel,
        Talk(AvatarServiceStub(channel)) as deaf,
        asyncio.timeout(12),
    ):
        await deaf.open(token)
        while (await running.info()).sessions_open > 1:  # noqa: ASYNC110 - as from another process
            await asyncio.sleep(0.05)
        return await deaf.failure()


def test_a_session_in_which_nobody_speaks_is_warned_and_ended() -> None:
    async def scenario() -> None:
        async with whole_system(settings={"limits": {"live_idle_seconds": 2}}) as running, viewer(running) as one:
            for _ in range(3):
                await asyncio.sleep(0.7)
                await one.speak(tone(1_000))
                await one.end_utterance()
            assert not any(response.HasField("go_away") for _, response in one.received)
            await asyncio.wait_for(one.ended.wait(), 30)
            notices = [response.go_away for _, response in one.received if response.HasField("go_away")]
            assert [notice.reason for notice in notices] == ["IDLE"]
            assert 0 < notices[0].time_left.ToNanoseconds() <= 10**9
            assert one.failure is not None
            assert one.failure.code() is grpc.StatusCode.FAILED_PRECONDITION
            await running.freed()

    asyncio.run(scenario())


def test_a_gateway_that_drains_says_so_and_lets_the_conversation_end() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            await one.until_block(4)
            drain = asyncio.ensure_future(running.service.drain())
            await one.speak(tone(RATE_HZ))
            await one.end_utterance()
            await one.until_event(FINISHED)
            notices = [response.go_away for _, response in one.received if response.HasField("go_away")]
            assert [notice.reason for notice in notices] == ["DRAINING"]
            await one.finish()
            await asyncio.wait_for(drain, 20)

    asyncio.run(scenario())


@pytest.mark.parametrize("cut", [1, 160, 7_681, 3 * RATE_HZ])
def test_the_pipeline_receives_the_same_for_any_chunks(cut: int) -> None:
    """Offline, heard as it comes: where nothing depends on a clock, nothing depends on the chunks either."""

    async def scenario() -> bytes:
        async with whole_system() as running:
            kept: list[bytes] = []
            encoder = running.pipeline.encoder
            encoder.before_block = lambda block: kept.append(bytes(next(iter(encoder.samples.values()))))
            await stream_in_pieces(running, 3_000 if cut == 1 else 4 * RATE_HZ, cut)
            return b"".join(kept)

    async def whole() -> bytes:
        async with whole_system() as running:
            kept: list[bytes] = []
            encoder = running.pipeline.encoder
            encoder.before_block = lambda block: kept.append(bytes(next(iter(encoder.samples.values()))))
            await stream_in_pieces(running, 3_000 if cut == 1 else 4 * RATE_HZ, 4 * RATE_HZ)
            return b"".join(kept)

    assert asyncio.run(scenario()) == asyncio.run(whole())


async def stream_in_pieces(running: Gateway, samples: int, cut: int) -> None:
    made = await running.create(listening=api.LISTENING_STREAMING)
    speech = np.random.default_rng(0).integers(-9_000, 9_000, samples).astype("<i2").tobytes()
    async with Talk(running.stub) as talk:
        await talk.open(made.session_token)
        for first in range(0, len(speech), 2 * cut):
            await talk.speak(speech[first : first + 2 * cut])
        await talk.finish()
        assert units(await talk.rest())
