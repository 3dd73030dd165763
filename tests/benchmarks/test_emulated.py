"""Services that wait: the sizes of what they pass on, and that waiting takes no CPU."""

import time
from collections.abc import Iterable
from dataclasses import replace

import pytest

from benchmarks.emulated import trace_line
from benchmarks.emulated_work import SESSIONS, EmulatedEncoder, EmulatedStage, emulated_video, first_sink
from live_avatar import wire
from live_avatar.config import S2V_14B, TINY
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, Sink, StreamBlocksRequest
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.observer import BlockReport
from live_avatar.v1.avatar_service_pb2 import BlockTiming

pytestmark = pytest.mark.alone

KEY = SessionKey(session_id="s", epoch=1)
OPEN = StreamBlocksRequest.Open(key=KEY, width=704, height=384)
LATENT_BYTES, TOKEN_BYTES = 405_504, 184_320


def made(requests: Iterable[StreamBlocksRequest]) -> StreamBlocksRequest.Block:
    [request] = requests
    return request.block


def received(index: int = 0) -> StreamBlocksRequest.Block:
    encoder = EmulatedEncoder(S2V_14B, 0.0)
    return made(encoder.block(StreamBlocksRequest.Block(key=KEY, index=index)))


def test_tokens_have_the_real_size() -> None:
    audio = received().audio
    assert len(audio.local.data) + len(getattr(audio, "global").data) == TOKEN_BYTES


def test_latents_have_the_real_size_and_pass_unchanged() -> None:
    stage = EmulatedStage(S2V_14B, 0.0)
    stage.open(OPEN)
    first = made(stage.block(received()))
    assert len(first.latent.data) == LATENT_BYTES
    assert wire.block_from_message(first).latent is not None
    again = made(stage.block(first))
    assert again.latent == first.latent
    assert again.audio == first.audio


def test_a_stage_waits_without_the_cpu() -> None:
    stage = EmulatedStage(S2V_14B, 0.2)
    stage.open(OPEN)
    block = received()
    began, used = time.monotonic(), time.thread_time()
    stage.block(block)
    assert time.monotonic() - began >= 0.2
    assert time.thread_time() - used < 0.1


def test_sessions_are_bounded_and_can_be_given_back() -> None:
    stage = EmulatedStage(TINY, 0.0)
    keys = [SessionKey(session_id=str(number), epoch=1) for number in range(SESSIONS + 1)]
    for key in keys[:-1]:
        stage.open(StreamBlocksRequest.Open(key=key, width=64, height=64))
    with pytest.raises(ServiceError, match="sessions are taken"):
        stage.open(StreamBlocksRequest.Open(key=keys[-1], width=64, height=64))
    assert stage.close(keys[0]) > 0
    assert stage.close(keys[0]) == 0
    stage.open(StreamBlocksRequest.Open(key=keys[-1], width=64, height=64))


def test_the_first_sink_is_one() -> None:
    sink = Sink.FromString(first_sink(S2V_14B, 704, 384))
    assert wire.sink_from_message(sink).reference.shape == (16, 1, 48, 88)
    warmup = wire.warmup_from_message(sink)
    assert warmup is not None
    assert warmup.shape == (16, S2V_14B.stream.warmup_latents, 48, 88)


def test_a_video_has_the_frames_that_are_shown() -> None:
    small = emulated_video(TINY, 64, 64)
    assert len(small.of(0)) == TINY.frames_per_block - TINY.stream.dropped_frames
    assert len(small.of(1)) == len(small.of(7)) == TINY.frames_per_block
    other_size = emulated_video(replace(TINY, stream=replace(TINY.stream, dropped_frames=0)), 32, 64)
    assert len(other_size.of(0)) == TINY.frames_per_block


def test_a_trace_line_reports_when_work_began_and_ended() -> None:
    timing = BlockTiming(service="stage")
    timing.queue_time.FromMilliseconds(3)
    timing.compute_time.FromMilliseconds(5)
    timing.hop_time.FromMilliseconds(1)
    report = BlockReport(
        service="stage",
        key=KEY,
        index=7,
        traceparent="",
        arrived_at_ns=10**9,
        sent_at_ns=10**9 + 9 * 10**6,
        timing=timing,
    )
    line = trace_line(report)
    assert (line["block"], line["session"]) == (7, "s")
    assert (line["started_ns"], line["ended_ns"]) == (10**9 + 3 * 10**6, 10**9 + 8 * 10**6)
    assert (line["sent_ns"], line["hop_ns"]) == (10**9 + 9 * 10**6, 10**6)
