"""Gateways that are killed or frozen while a live session speaks: another one goes on, and nothing is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from live_avatar.services.gateway.store.records import point_key, slots_key
from live_avatar.services.gateway.store.redis_access import connect
from live_avatar.serving.server import Service
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.api.test_resumption import BLOCK
from tests.services.gateway.clients import Gateway, Request, Response, is_movie, levels, tone, video_format
from tests.services.gateway.fake_pipeline import FakePipeline, fake_pipeline
from tests.services.gateway.resuming_client import Client, has

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[4]
LEASE_S, RESUME_S = 1.0, 6.0
SPEECH = tone(10 * BLOCK)
END_S = 60.0


@contextmanager
def gateway_process(address: str, store: str, *flags: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A gateway as a process, and its port."""
    command = [
        sys.executable, "-m", "live_avatar.services.gateway", "--pipelines", address, "--store.url", store,
        "--store.lease-seconds", str(LEASE_S), "--limits.resume-seconds", str(RESUME_S), "--token-key", "shared",
        "--relay.timeout-ms", "1000", "--server.host", "127.0.0.1", *flags,
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LIVE_AVATAR__")}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["port"]
        finally:
            process.kill()


class Listener(Client):
    """A client that drops what it has received already: handles come as soon as what they need is stored, no sooner."""

    frames = 0
    sample = 0

    async def open(self, handle: str | None = None, next_block: int | None = None) -> None:
        self._whole = (len(self.units), len(self.speech))
        await super().open(handle, 0)

    def _take(self, response: Response) -> None:
        unit, audio = response.video_unit, response.audio_unit
        if response.HasField("video_unit"):
            if unit.first_frame_index >= self.frames:
                self.units.append(unit)
                self.frames += unit.frame_count
        elif response.HasField("audio_unit"):
            if audio.span.end_time.ToNanoseconds() > self.sample:
                self.speech += audio.data
                self.sample = audio.span.end_time.ToNanoseconds()
        else:
            super()._take(response)

    def _note_handle(self, note: Response.Opened | Response.ResumptionUpdate) -> None:
        self.handle, self.next_block = note.resume_handle, note.next_block_index


def gateway_at(stub: Any, pipeline: FakePipeline | None = None) -> Gateway:
    """A gateway that is a process; ``pipeline`` where that is not one too."""
    return Gateway(stub, cast(FakePipeline, pipeline), cast(Service, None), "")


class Place:
    """Two gateways that share a store and a pipeline."""

    def __init__(self, pipeline: FakePipeline, store: str) -> None:
        self.pipeline = pipeline
        self.store = store
        self.processes: list[subprocess.Popen[str]] = []
        self.gateways: list[Gateway] = []

    def end(self, number: int, how: signal.Signals) -> None:
        self.processes[number].send_signal(how)

    async def holds(self, number: int, session_id: str) -> api.Session:
        stub = self.gateways[number].stub
        return (await stub.GetSession(api.GetSessionRequest(session_id=session_id), timeout=10)).session


@asynccontextmanager
async def place(store: str, *flags: str) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack, asyncio.timeout(END_S):
        made = Place(await stack.enter_async_context(fake_pipeline(4)), store)
        for _ in range(2):
            running = gateway_process(made.pipeline.address, store, *flags)
            process, port = await asyncio.to_thread(stack.enter_context, running)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            one = gateway_at(AvatarServiceStub(channel), made.pipeline)
            made.processes.append(process)
            made.gateways.append(one)
            await one.wait_ready()
        yield made


async def begun(at: Place, encoding: Any) -> Listener:
    """A client that speaks to the first gateway."""
    created = await at.gateways[0].create(delivery=api.DELIVERY_LIVE, video=video_format(encoding))
    one = Listener(at.gateways[0], created.session_token)
    await one.open()
    await one.speak(SPEECH)
    await one.say(finish=Request.Finish())
    return one


async def resumed(one: Listener, gateway: Gateway) -> None:
    """The client goes on at ``gateway``, as soon as that has the session."""
    one._gateway = gateway
    while True:
        try:
            await one.open()
            return
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("encoding", [VideoFormat.ENCODING_FMP4, VideoFormat.ENCODING_H264_ANNEXB])
def test_another_gateway_goes_on(redis_server: str, how: signal.Signals, encoding: int) -> None:
    async def scenario() -> None:
        async with place(redis_server) as at:
            one = await begun(at, encoding)
            await one.take(has(4))
            at.end(0, how)
            await one.lose()
            await resumed(one, at.gateways[1])
            await one.take()
            check_whole(one, encoding)
            (event,) = [event for event in one.events if event.kind == event.KIND_DISCONTINUITY]
            assert event.warning.details and event.block_index == one.opened[1].next_block_index
            if how is signal.SIGSTOP:
                at.end(0, signal.SIGCONT)
            await at.gateways[1].freed()

    asyncio.run(scenario())


def check_whole(one: Listener, encoding: int) -> None:
    """No block, frame or sample is lost or repeated."""
    units = [unit for unit in one.units if unit.frame_count]
    assert [unit.block_index for unit in units] == list(range(len(units)))
    frames = 0
    for unit in units:
        assert unit.first_frame_index == frames
        frames += unit.frame_count
    movie = b"".join(unit.data for unit in one.units)
    mp4 = encoding == VideoFormat.ENCODING_FMP4
    assert is_movie(levels(movie, "mp4" if mp4 else "h264"), frames)
    if not mp4:
        assert SPEECH in one.speech


def test_a_session_that_nobody_has_opened_is_opened_at_another_gateway(redis_server: str) -> None:
    async def scenario() -> None:
        async with place(redis_server) as at:
            form = video_format(VideoFormat.ENCODING_H264_ANNEXB)
            created = await at.gateways[0].create(delivery=api.DELIVERY_LIVE, video=form)
            await asyncio.sleep(0.5)
            at.end(0, signal.SIGKILL)
            one = Listener(at.gateways[1], created.session_token)
            await resumed(one, at.gateways[1])
            await one.speak(SPEECH)
            await one.say(finish=Request.Finish())
            await one.take()
            check_whole(one, VideoFormat.ENCODING_H264_ANNEXB)

    asyncio.run(scenario())


def test_a_session_whose_client_does_not_return_keeps_its_place_and_then_ends(redis_server: str) -> None:
    async def scenario() -> None:
        async with place(redis_server) as at:
            redis = connect(redis_server)
            one = await begun(at, VideoFormat.ENCODING_H264_ANNEXB)
            await one.take(has(2))
            name = one.opened[0].session.session_id
            at.end(0, signal.SIGKILL)
            await one.lose()
            await asyncio.sleep(LEASE_S + RESUME_S / 2)
            assert (await at.holds(1, name)).state == api.Session.STATE_ACTIVE
            now = (await redis.time())[0] * 1000
            assert (await redis.zscore(slots_key(at.pipeline.head), name) or 0) > now
            assert await redis.exists(point_key(name, 1))
            while (session := await at.holds(1, name)).state != api.Session.STATE_FAILED:  # noqa: ASYNC110 - asked
                await asyncio.sleep(0.1)
            assert session.end_reason == "GATEWAY_LOST"
            assert not await redis.exists(point_key(name, 1))
            await redis.aclose(close_connection_pool=True)

    asyncio.run(scenario())
