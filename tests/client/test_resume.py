"""Streams of the SDK whose line breaks: they go on by themselves, without a gap and without anything twice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from live_avatar.client import (
    AudioUnit,
    AvatarClient,
    AvatarError,
    AvatarStream,
    Event,
    SessionOptions,
    StreamLost,
    StreamResumed,
    VideoUnit,
)
from live_avatar.client.errors import from_rpc_error
from live_avatar.client.resumption import is_resumable, pauses
from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.services.gateway.limits import Limits
from tests.client.tcp_proxy import TcpProxy, tcp_proxy
from tests.services.gateway.clients import Gateway, portrait, tone, whole_system

BLOCK = SAMPLE_RATE_HZ * 12 // 25
SPEECH = tone(10 * BLOCK)
PIECE = len(SPEECH) // 40 // 2 * 2
OPTIONS = SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ, video="h264", delivery="live")


@dataclass
class Seen:
    """What a viewer got."""

    frames: int = 0
    speech: bytes = b""
    events: list[str] = field(default_factory=list)
    lost: list[StreamLost] = field(default_factory=list)
    resumed: list[StreamResumed] = field(default_factory=list)

    async def watch(self, stream: AvatarStream, on_frames: Callable[[int], None]) -> None:
        async for result in stream:
            match result:
                case VideoUnit():
                    assert result.first_frame == self.frames, "a frame is lost or comes twice"
                    self.frames += result.frame_count
                    on_frames(self.frames)
                case AudioUnit():
                    assert result.start_ns == len(self.speech) // 2 * 62_500, "speech is lost or comes twice"
                    self.speech += result.data
                case Event():
                    self.events.append(result.kind)
                case StreamLost():
                    self.lost.append(result)
                case StreamResumed():
                    self.resumed.append(result)


def sounding(speech: bytes) -> list[int]:
    """The samples that are not 0."""
    return [sample for sample in np.frombuffer(speech, np.int16).tolist() if sample]


async def speak(stream: AvatarStream) -> None:
    """At the pace of a microphone, twice as fast."""
    for start in range(0, len(SPEECH), PIECE):
        await stream.send_audio(SPEECH[start : start + PIECE], "one")
        await asyncio.sleep(PIECE / 2 / SAMPLE_RATE_HZ / 2)
    await stream.end()


async def watched(target: str, on_frames: Callable[[int], None], *, resume: bool = True) -> Seen:
    seen = Seen()
    async with AvatarClient(target) as client:
        session = await client.create_session(portrait(), OPTIONS)
        async with session.stream(resume=resume) as stream:
            speaking = asyncio.create_task(speak(stream))
            try:
                await seen.watch(stream, on_frames)
                await speaking
            finally:
                speaking.cancel()
    return seen


def run(scenario: Callable[[Gateway, TcpProxy, str], Awaitable[None]], limits: Limits | None = None) -> None:
    async def whole() -> None:
        settings = {"limits": limits} if limits else None
        async with whole_system(settings=settings) as gateway, tcp_proxy(gateway.target) as (proxy, target):
            async with asyncio.timeout(60):
                await scenario(gateway, proxy, target)
            await gateway.freed()

    asyncio.run(whole())


def test_a_stream_goes_on_whenever_its_line_is_cut() -> None:
    async def scenario(gateway: Gateway, proxy: TcpProxy, target: str) -> None:
        cuts = iter((5, 9, 40, 41, 77, 99))
        due = next(cuts)

        def cut_at(frames: int) -> None:
            nonlocal due
            if frames >= due:
                due = next(cuts, 10_000)
                proxy.cut()

        seen = await watched(target, cut_at)
        assert SPEECH in seen.speech
        assert seen.frames >= 10 * 12 - 3
        assert len(seen.lost) == len(seen.resumed) >= 3
        assert seen.events.count("UTTERANCE_STARTED") == seen.events.count("UTTERANCE_FINISHED") == 1

    run(scenario)


def test_a_stream_goes_on_after_a_line_that_fell_silent() -> None:
    async def scenario(gateway: Gateway, proxy: TcpProxy, target: str) -> None:
        def freeze(frames: int) -> None:
            if 20 <= frames < 40 and not frozen:
                frozen.append(frames)
                proxy.freeze()
                asyncio.get_running_loop().call_later(10, proxy.thaw)

        frozen: list[int] = []
        seen = await watched(target, freeze)
        # Silence stood in for what did not come; nothing of what was said is lost.
        assert sounding(seen.speech) == sounding(SPEECH)
        assert seen.frames >= 10 * 12 - 3

    run(scenario)


def test_a_stream_that_must_not_be_resumed_fails() -> None:
    async def scenario(gateway: Gateway, proxy: TcpProxy, target: str) -> None:
        with pytest.raises(AvatarError) as caught:
            await watched(target, lambda frames: proxy.cut(), resume=False)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE

    run(scenario)


def test_a_session_that_is_gone_is_not_waited_for() -> None:
    async def scenario(gateway: Gateway, proxy: TcpProxy, target: str) -> None:
        def cut_for_long(frames: int) -> None:
            proxy.accepts = False
            proxy.cut()
            asyncio.get_running_loop().call_later(2.5, accept)

        def accept() -> None:
            proxy.accepts = True

        with pytest.raises(AvatarError) as caught:
            await watched(target, cut_for_long)
        assert caught.value.reason == "SESSION_EXPIRED"
        assert "could not be resumed" in caught.value.message

    run(scenario, Limits(resume_seconds=0.5))


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", True),
        (grpc.StatusCode.UNAVAILABLE, "DRAINING", True),
        (grpc.StatusCode.UNAVAILABLE, "TLS_FAILED", False),
        (grpc.StatusCode.ABORTED, "LEASE_LOST", True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", True),
        (grpc.StatusCode.ABORTED, "SESSION_CLOSED", False),
        (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED", False),
        (grpc.StatusCode.UNAUTHENTICATED, "HANDLE_INVALID", False),
        (grpc.StatusCode.INTERNAL, "INTERNAL", True),
    ],
)
def test_which_errors_a_session_outlives(code: grpc.StatusCode, reason: str, *, expected: bool) -> None:
    assert is_resumable(AvatarError(code, reason, "a sentence")) is expected


def test_a_call_that_a_balancer_resets_keeps_the_reason_of_the_server() -> None:
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="the session is over")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="SESSION_EXPIRED"))
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    raised = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), trailing, "Stream removed")
    error = from_rpc_error(raised)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED")


def test_attempts_end() -> None:
    assert list(pauses(0.0)) == [0.0]


def test_a_burst_after_a_pause_does_not_stop_a_recording() -> None:
    async def scenario(gateway: Gateway, proxy: TcpProxy, target: str) -> None:
        seen, options = Seen(), SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ, video="h264")
        paused = asyncio.Event()
        burst = tone(150 * BLOCK)

        async def speak_in_bursts(stream: AvatarStream) -> None:
            await stream.send_audio(burst[: 8 * BLOCK])
            await paused.wait()
            await stream.send_audio(burst[8 * BLOCK :])
            await stream.end()

        def wait_for_receipt(frames: int) -> None:
            if frames >= 20:
                asyncio.get_running_loop().call_later(0.3, paused.set)

        async with AvatarClient(target) as client, asyncio.timeout(40), asyncio.TaskGroup() as tasks:
            session = await client.create_session(portrait(), options)
            async with session.stream() as stream:
                tasks.create_task(speak_in_bursts(stream))
                await seen.watch(stream, wait_for_receipt)
        assert seen.speech == burst

    run(scenario)
