"""A live talk against a gateway without a pipeline: what is sent, what is made of what comes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import av
import grpc
import pytest
from google.rpc.status_pb2 import Status

from live_avatar.client import AvatarClient, AvatarError, LiveStats, SessionOptions, live_stream, results, talk
from live_avatar.v1 import avatar_service_pb2 as api

from .fake_gateway import FakeGateway, Requests, Response, fake_gateway, serving

Event = Response.Event
OPTIONS = SessionOptions(sample_rate_hz=16_000, delivery="live")


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(20):
        yield bytes(3_200)
    yield b""


def spoken(gateway: FakeGateway, requests: Requests) -> Iterator[Response]:
    """Hears an utterance, tells how it goes, and shows it."""
    while gateway.take(requests) != "end_of_utterance":
        pass
    yield Response(event=Event(kind=Event.KIND_UTTERANCE_STARTED))
    yield Response(event=Event(kind=Event.KIND_DEGRADED))
    yield Response(event=Event(kind=Event.KIND_WARNING, warning=Status(code=9, message="a smear is to be expected")))
    yield from gateway.talk(requests)


def test_a_talk_becomes_a_video_and_stats(tmp_path: Path) -> None:
    gateway, out, seen = fake_gateway(), tmp_path / "out.mp4", list[float]()
    gateway.deliver = spoken

    async def scenario(address: str) -> LiveStats:
        async with AvatarClient(address) as client:
            return await talk(client, b"image", OPTIONS, pieces(), out, lambda one: seen.append(one.video_s))

    with serving(gateway) as address:
        stats = asyncio.run(scenario(address))
    config = gateway.created[0].config
    assert (config.delivery, config.listening) == (api.DELIVERY_LIVE, api.LISTENING_STREAMING)
    assert len(gateway.speech) == 64_000
    assert stats.events == ["UTTERANCE_STARTED", "DEGRADED", "WARNING"]
    assert [warning.message for warning in stats.warnings] == ["a smear is to be expected"]
    assert stats.starved == 1
    assert len(stats.reactions_s) == 1
    assert 0 < stats.reactions_s[0] < 10
    assert stats.video_s == pytest.approx(2.4)
    assert seen[-1] == stats.video_s
    assert stats.slowest is not None
    with av.open(out) as movie:
        assert [stream.codec_context.name for stream in movie.streams] == ["h264", "aac"]
        assert [round(frame.time * 25) for frame in movie.decode(video=0)] == [0, *range(4, 60)]
    assert gateway.closed == ["one"]


def state(kind: str, reason: str = "", **metadata: str) -> results.Event:
    error = AvatarError(grpc.StatusCode.DEADLINE_EXCEEDED, reason, "a message", metadata)
    return results.Event(kind=kind, utterance_id="", media_time_ns=0, block_index=0, warning=error if reason else None)


def test_stats_count_what_spoils_the_talk() -> None:
    seen = LiveStats()
    seen.note_state(state("DEGRADED", "PIPELINE_SLOW", service="denoise-stage-2"))
    seen.note_state(state("DEGRADED", "AUDIO_STARVED"))
    assert seen.degraded == ["PIPELINE_SLOW", "AUDIO_STARVED"]
    seen.note_state(state("RECOVERED", "PIPELINE_SLOW", service="denoise-stage-0"))
    seen.note_state(state("RECOVERED", "CLIENT_SLOW"))
    assert seen.degraded == ["AUDIO_STARVED"]
    seen.note_state(state("DEGRADED", "PIPELINE_SLOW"))
    assert (seen.spoiled["PIPELINE_SLOW"], seen.starved, seen.slow_service) == (2, 1, "denoise-stage-0")


def test_a_gateway_that_gives_no_reason_knows_late_speech_alone() -> None:
    seen = LiveStats()
    seen.note_state(state("DEGRADED"))
    assert (seen.starved, seen.degraded) == (1, ["AUDIO_STARVED"])
    seen.note_state(state("RECOVERED"))
    assert (seen.starved, seen.degraded) == (1, [])


def test_a_talk_that_fails_leaves_no_file(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(320)
        raise ValueError("the recording is damaged")

    async def scenario(address: str) -> None:
        async with AvatarClient(address) as client:
            await talk(client, b"image", OPTIONS, broken(), tmp_path / "out.mp4", lambda one: None)

    gateway = fake_gateway()
    with serving(gateway) as address, pytest.raises((ValueError, AvatarError), match="damaged"):
        asyncio.run(scenario(address))
    assert list(tmp_path.iterdir()) == []


def test_a_live_stream_reports_and_interrupts() -> None:
    """Reports follow the first picture by themselves; a barge-in comes with one, and what follows begins anew."""
    gateway = fake_gateway()
    kinds = list[str]()

    def deliver(one: FakeGateway, requests: Requests) -> Iterator[Response]:
        unit = Response.VideoUnit(first_frame_index=0, frame_count=9)
        unit.span.start_time.FromMilliseconds(120)
        unit.span.end_time.FromMilliseconds(480)
        yield Response(video_unit=unit)
        while "finish" not in kinds:
            request = next(requests)
            kinds.append(str(request.WhichOneof("payload")))
            if kinds[-1] == "audio_chunk":
                kinds[-1] += f" {request.audio_chunk.sample_offset} {request.audio_chunk.utterance_id}"
            if kinds[-1] == "playback_report":
                assert 120 <= request.playback_report.played_through_time.ToMilliseconds() <= 480
            if kinds[-1] == "update":
                kinds[-1] += f" {request.update.config.prompt} {request.update.update_mask.paths[0]}"

    gateway.deliver = deliver

    async def scenario(address: str) -> None:
        async with AvatarClient(address) as client:
            session = await client.create_session(b"image", OPTIONS)
            async with live_stream(session) as stream:
                await anext(stream)
                await stream.send_audio(bytes(640), "one")
                await asyncio.sleep(0.5)
                await stream.interrupt()
                await stream.send_audio(bytes(640), "two")
                await stream.change_prompt("a fox")
                await stream.end()
                assert [result async for result in stream] == []

    with serving(gateway) as address:
        asyncio.run(scenario(address))
    reports = [index for index, kind in enumerate(kinds) if kind == "playback_report"]
    assert len(reports) >= 3
    assert kinds.index("interrupt") - 1 in reports
    reported = [kind for kind in kinds if kind not in ("playback_report", "credit")]
    assert reported == ["audio_chunk 0 one", "interrupt", "audio_chunk 0 two", "update a fox prompt", "finish"]
