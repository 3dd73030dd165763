"""Calls and streams of the client against a gateway without a pipeline, over a real socket."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import fields

import grpc
import pytest

from live_avatar.client import (
    AudioUnit,
    AvatarClient,
    AvatarError,
    Event,
    GoAway,
    Limits,
    SessionOptions,
    VideoUnit,
    stream,
)
from live_avatar.client.outbox import OUTBOX_SIZE
from live_avatar.client.stream import VIDEO_CREDITS, AvatarStream
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import AudioFormat, VideoFormat

from .fake_gateway import FakeGateway, Requests, Response, fake_gateway, rich_status, serving

OPTIONS = SessionOptions(sample_rate_hz=16_000)


@pytest.fixture
def gateway() -> FakeGateway:
    return fake_gateway()


def talk(gateway: FakeGateway, conversation: Callable[[AvatarStream], Awaitable[None]]) -> None:
    """Runs ``conversation`` on a stream of ``gateway``."""

    async def main() -> None:
        with serving(gateway) as address:
            async with AvatarClient(address) as client:
                session = await client.create_session(b"an image", OPTIONS)
                async with session.stream() as opened:
                    await conversation(opened)
                await session.close()

    asyncio.run(main())


async def collected(results: AsyncIterator[object]) -> list[object]:
    return [result async for result in results]


def test_the_client_needs_no_torch_and_nothing_of_the_servers() -> None:
    code = (
        "import sys, live_avatar.client\n"
        "heavy = {'torch', 'structlog', 'redis', 'pydantic', 'opentelemetry', 'live_avatar.serving'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def failing_create(gateway: FakeGateway, image: bytes) -> AvatarError:
    async def main() -> AvatarError:
        with serving(gateway) as address:
            async with AvatarClient(address) as client:
                with pytest.raises(AvatarError) as caught:
                    await client.create_session(image, OPTIONS)
        return caught.value

    return asyncio.run(main())


def test_an_image_over_the_published_limit_is_refused_before_it_is_sent(gateway: FakeGateway) -> None:
    error = failing_create(gateway, bytes(5 * 2**20))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_TOO_LARGE")
    assert "100000" in error.message  # what the fake publishes
    assert gateway.created == []


def test_what_the_transport_refuses_has_a_reason_too(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live_avatar.client.client.MAX_IMAGE_BYTES", 10**9)
    error = failing_create(gateway, bytes(5 * 2**20))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")


def test_a_session_is_made_as_its_options_say(gateway: FakeGateway) -> None:
    options = SessionOptions(
        sample_rate_hz=8_000, sample_format="f32", prompt="a baker", seed=7, video="h264", listening="whole_file"
    )

    async def main() -> None:
        with serving(gateway) as address:
            async with AvatarClient(address) as client:
                await client.create_session(b"an image", options, request_id="once")
                await client.create_session(b"an image", OPTIONS)
                await client.create_session(b"an image", OPTIONS)

    asyncio.run(main())
    first, second, third = gateway.created
    assert (first.request_id, first.reference_image) == ("once", b"an image")
    assert second.request_id != third.request_id
    config = first.config
    assert (config.prompt, config.seed, config.listening) == ("a baker", 7, api.LISTENING_WHOLE_FILE)
    assert config.audio == AudioFormat(encoding=AudioFormat.ENCODING_PCM_F32LE, sample_rate_hz=8_000, channel_count=1)
    assert config.video.encoding == VideoFormat.ENCODING_H264_ANNEXB


def test_speech_arrives_in_order_and_complete_and_video_comes_back(gateway: FakeGateway) -> None:
    speech = bytes(range(250)) * 4_000
    results: list[object] = []

    async def conversation(opened: AvatarStream) -> None:
        assert (opened.width, opened.height) == (64, 64)
        for start in range(0, len(speech), 333_334):
            await opened.send_audio(speech[start : start + 333_334])
        await opened.end()
        results.extend(await collected(opened))

    talk(gateway, conversation)
    assert gateway.speech == speech
    blocks = [unit.block_index for unit in results if isinstance(unit, VideoUnit) and unit.frame_count]
    assert blocks == list(range(66))
    assert gateway.closed == ["one"]


def test_credits_are_granted_as_video_is_taken(gateway: FakeGateway) -> None:
    units = 3 * VIDEO_CREDITS

    def deliver(self: FakeGateway, requests: Requests) -> Iterator[Response]:
        for index in range(units):
            while self.credits == 0:
                assert self.take(requests) == "credit"
            self.credits -= 1
            yield Response(video_unit=Response.VideoUnit(block_index=index))

    gateway.deliver = deliver
    results: list[object] = []

    async def conversation(opened: AvatarStream) -> None:
        results.extend(await collected(opened))

    talk(gateway, conversation)
    assert len(results) == units


def test_speech_waits_for_a_server_that_does_not_read(gateway: FakeGateway) -> None:
    second, reads = bytes(32_000), threading.Event()
    accepted = 0

    def deliver(self: FakeGateway, requests: Requests) -> Iterator[Response]:
        assert reads.wait(10)
        self.receive(requests)
        yield Response(go_away=Response.GoAway(reason="all was read"))

    gateway.deliver = deliver

    async def conversation(opened: AvatarStream) -> None:
        nonlocal accepted
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await opened.send_audio(second)
                    accepted += 1
        reads.set()
        await opened.end()
        assert await collected(opened) == [GoAway(time_left_s=0.0, reason="all was read")]

    talk(gateway, conversation)
    # The windows of the transport hold some of it beside our own queue.
    assert OUTBOX_SIZE <= accepted < 20 * OUTBOX_SIZE
    assert gateway.speech == second * accepted


def test_other_results_are_reported_and_unknown_ones_left_out(gateway: FakeGateway) -> None:
    def deliver(self: FakeGateway, requests: Requests) -> Iterator[Response]:
        reported = Response.Event(kind=Response.Event.KIND_DEGRADED, utterance_id="u", block_index=3)
        reported.media_time.FromMilliseconds(40)
        reported.warning.CopyFrom(rich_status(grpc.StatusCode.UNAVAILABLE, "STAGE_LOST"))
        yield Response(resumption_update=Response.ResumptionUpdate(resumable=True))
        yield Response(event=reported)
        yield Response(audio_unit=Response.AudioUnit(data=b"pcm", utterance_id="u"))

    gateway.deliver = deliver
    results: list[object] = []

    async def conversation(opened: AvatarStream) -> None:
        results.extend(await collected(opened))

    talk(gateway, conversation)
    event, audio = results
    assert isinstance(event, Event) and event.warning is not None
    assert (event.kind, event.media_time_ns, event.block_index) == ("DEGRADED", 40_000_000, 3)
    assert event.warning.reason == "STAGE_LOST"
    assert audio == AudioUnit(data=b"pcm", start_ns=0, end_ns=0, utterance_id="u")


def test_a_refusal_carries_reason_metadata_and_when_to_retry(gateway: FakeGateway) -> None:
    gateway.refusal = rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED", 5)

    async def conversation(opened: AvatarStream) -> None:
        raise AssertionError("no session was promised")

    with pytest.raises(AvatarError) as caught:
        talk(gateway, conversation)
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")
    assert (error.message, error.metadata, error.retry_after_s) == ("a sentence", {"field": "image"}, 5.0)


def test_the_end_of_a_session_reaches_readers_and_writers(gateway: FakeGateway) -> None:
    def deliver(self: FakeGateway, requests: Requests) -> Iterator[Response]:
        self.refusal = rich_status(grpc.StatusCode.UNAVAILABLE, "STAGE_LOST", 1)
        yield Response(audio_unit=Response.AudioUnit())

    gateway.deliver = deliver

    async def conversation(opened: AvatarStream) -> None:
        with pytest.raises(AvatarError, match="STAGE_LOST"):
            await collected(opened)
        with pytest.raises(AvatarError, match="STAGE_LOST"):
            for _ in range(2 * OUTBOX_SIZE):
                await opened.send_audio(b"1234")

    talk(gateway, conversation)


def test_nothing_can_be_sent_after_a_good_end(gateway: FakeGateway) -> None:
    gateway.deliver = lambda _gateway, _requests: iter(())

    async def conversation(opened: AvatarStream) -> None:
        assert await collected(opened) == []
        with pytest.raises(AvatarError, match="STREAM_ENDED"):
            for _ in range(2 * OUTBOX_SIZE):
                await opened.send_audio(b"1234")

    talk(gateway, conversation)


def test_a_silent_server_is_given_up(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SILENCE_S", 0.2)

    async def conversation(opened: AvatarStream) -> None:
        with pytest.raises(AvatarError, match="SERVER_SILENT"):
            await collected(opened)

    talk(gateway, conversation)


def test_an_absent_gateway_is_an_error_with_the_code_as_reason() -> None:
    async def main() -> None:
        async with AvatarClient("127.0.0.1:1") as client:
            await client.server_info()

    with pytest.raises(AvatarError) as caught:
        asyncio.run(main())
    assert caught.value.reason == "UNAVAILABLE"


def test_the_client_has_all_limits_that_are_published() -> None:
    published = {
        field.name if field.message_type is None else f"{field.name}_s" for field in api.Limits.DESCRIPTOR.fields
    }
    assert {field.name for field in fields(Limits)} == published


def test_what_the_server_says_of_itself(gateway: FakeGateway) -> None:
    async def main() -> None:
        with serving(gateway) as address:
            async with AvatarClient(address) as client:
                info = await client.server_info()
        assert (info.preset, info.session_capacity, info.pipelines) == ("TINY", 1, ("one",))
        assert (info.limits.max_image_bytes, info.limits.max_whole_file_s) == (100_000, 10.0)
        assert (info.limits.open_timeout_s, info.limits.max_calls_per_second) == (2.5, 0)

    asyncio.run(main())
