"""The services as real processes: they say what they are, equal the library's loop together, and end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import cache

import grpc
import pytest
import torch

from live_avatar import wire
from live_avatar.config import TINY
from live_avatar.pipeline.v1.blocks_pb2 import (
    ConditioningBody,
    GetServiceInfoRequest,
    GetServiceInfoResponse,
    ServiceInfo,
    StreamBlocksRequest,
    StreamBlocksResponse,
)
from live_avatar.pipeline.v1.blocks_pb2 import Sink as SinkMessage
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoRequest, StreamVideoResponse
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceStub
from live_avatar.services.denoise_stage.service import build
from live_avatar.services.denoise_stage.settings import DenoiseStageSettings
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.link import Link
from live_avatar.serving.parts import conditioning_parts
from live_avatar.serving.telemetry import Telemetry
from live_avatar.streaming.audio_grid import whole_file_blocks
from live_avatar.streaming.local import generate, warmup_latents

from . import tiny
from .processes import started
from .tiny import audio_request, block_request, key, open_request

BLOCKS = 6
DIGEST = tiny.NETWORKS.digest
NAMES = ["audio-encoder", "denoise-stage-0", "denoise-stage-2", "vae-decoder"]


def test_a_service_that_cannot_start_says_why() -> None:
    with started("vae_decoder", "--preset", "S2V_14B") as service:
        out, log = service.process.communicate(timeout=120)
    assert service.process.returncode == 1
    assert out == ""
    assert "S2V_14B needs a folder of weights" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weights": "absent"}, "absent"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_settings_that_cannot_be_met(changes: dict[str, object], complaint: str) -> None:
    settings = DenoiseStageSettings.model_validate({"next": "127.0.0.1:1", "steps": "0", **changes})

    async def enter() -> None:
        async with build(settings, Telemetry("denoise-stage")):
            raise AssertionError("it started")

    with pytest.raises(ValueError, match=complaint):
        asyncio.run(enter())


def expected() -> list[bytes]:
    """RGB of every picture that the library's loop makes."""
    samples = torch.from_numpy(tiny.waveform(BLOCKS - 0.5))
    decoder = tiny.frame_decoder()
    sink = decoder.encode_portrait(tiny.portrait_pixels())
    with torch.inference_mode():
        generated = generate(
            [tiny.denoiser(range(TINY.stream.steps))],
            decoder,
            sink=sink,
            warmup=warmup_latents(sink, decoder),
            text=tiny.text().encode(tiny.PROMPT),
            audio=[tiny.audio_tokens()(one) for one in whole_file_blocks(tiny.speech(), samples, TINY)],
            seed=7,
        )
        return [rgb.numpy().tobytes() for one in generated for frames in one.frames for rgb in frames.pixels]


class Gateway:
    """As much of a gateway as one session needs."""

    def __init__(self, link: Link, video: grpc.aio.StreamStreamCall[StreamVideoRequest, StreamVideoResponse]) -> None:
        self.link = link
        self.video = video
        self.opened: asyncio.Queue[StreamBlocksResponse] = asyncio.Queue()
        self.failures: list[str] = []

    def respond(self, response: StreamBlocksResponse) -> None:
        if response.HasField("opened"):
            self.opened.put_nowait(response)
        elif response.HasField("session_failed"):
            self.failures.append(f"{response.session_failed.reason}: {response.session_failed.message}")

    def link_ready(self, ready: bool) -> None: ...

    def link_down(self, error: ServiceError) -> None: ...

    async def open(self) -> list[str]:
        """Opens the session with its audio, sink and prompt; returns the services that reserved memory."""
        await self.link.wait_ready(20)
        await self.link.send(StreamBlocksRequest(open=open_request()))
        opened = (await self.opened.get()).opened
        await self.video.write(StreamVideoRequest(subscribe=StreamVideoRequest.Subscribe(key=key())))
        await self.link.send(StreamBlocksRequest(audio=audio_request(tiny.waveform(BLOCKS - 0.5))))
        await self.condition(0, ConditioningBody(sink=first_sink(), prompt=tiny.PROMPT))
        return [reservation.service for reservation in opened.reservations if reservation.bytes]

    async def condition(self, from_block: int, body: ConditioningBody) -> None:
        for request in conditioning_parts(key(), from_block, body.SerializeToString()):
            await self.link.send(request)

    async def pictures(self) -> AsyncIterator[StreamVideoResponse.Video]:
        """Admits all blocks, those from the switch on when the model's own sink is there; yields the video."""
        await self.admit(0, TINY.stream.sink_switch_block)
        while isinstance(response := await self.video.read(), StreamVideoResponse):
            if response.HasField("new_sink"):
                own = SinkMessage.FromString(response.new_sink.data)
                await self.condition(TINY.stream.sink_switch_block, ConditioningBody(sink=own))
                await self.admit(TINY.stream.sink_switch_block, BLOCKS)
            if response.HasField("video"):
                yield response.video

    async def admit(self, first: int, last: int) -> None:
        for index in range(first, last):
            await self.link.send(StreamBlocksRequest(block=block_request(index)))


@asynccontextmanager
async def gateway(head: str, decoder: str) -> AsyncIterator[Gateway]:
    link = Link(head, peer="test", expected_model_digest=DIGEST)
    async with grpc.aio.insecure_channel(decoder) as channel:
        client = Gateway(link, VaeDecoderServiceStub(channel).StreamVideo())
        running = [asyncio.create_task(link.run(client)), asyncio.create_task(heartbeat_message(client))]
        yield client
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def heartbeat_message(client: Gateway) -> None:
    while True:
        await client.video.write(StreamVideoRequest(heartbeat=StreamVideoRequest.Heartbeat()))
        await asyncio.sleep(1)


async def describe(target: str) -> GetServiceInfoResponse:
    async with grpc.aio.insecure_channel(target) as channel:
        return await PipelineServiceStub(channel).GetServiceInfo(GetServiceInfoRequest(), timeout=5)


@cache
def first_sink() -> SinkMessage:
    """Sink version 0."""
    library = tiny.frame_decoder()
    sink = library.encode_portrait(tiny.portrait_pixels())
    return wire.sink_to_message(sink, warmup_latents(sink, library))


async def run_session(head: str, decoder: str) -> list[bytes]:
    """The pictures of one session; afterwards nothing of it is left."""
    frames: list[bytes] = []
    first_sink()  # before anything is sent: an event loop that computes misses its heartbeats
    async with gateway(head, decoder) as client:
        assert await client.open() == NAMES
        async for video in client.pictures():
            frames += video.frames
            if video.last and video.block_index == BLOCKS - 1:
                assert [timing.service for timing in video.timings] == NAMES
                break
        assert client.failures == []
        assert all(info.session_bytes for info in (await describe(head)).services)
        await client.link.send(StreamBlocksRequest(close=StreamBlocksRequest.Close(key=key())))
        async with asyncio.timeout(5):
            while any(info.session_bytes for info in (await describe(head)).services):  # noqa: ASYNC110 - not our process
                await asyncio.sleep(0.02)
    return frames


def check_description(answer: GetServiceInfoResponse) -> None:
    assert answer.ready
    assert [info.name for info in answer.services] == NAMES
    assert [list(info.steps) for info in answer.services] == [[], [0, 1], [2, 3], []]
    roles = [ServiceInfo.ROLE_AUDIO_ENCODER, *[ServiceInfo.ROLE_DENOISE_STAGE] * 2, ServiceInfo.ROLE_VAE_DECODER]
    assert [info.role for info in answer.services] == roles
    assert {info.model_digest for info in answer.services} == {DIGEST}
    assert len({info.device for info in answer.services}) == len(NAMES)
    assert all(info.session_capacity > 0 for info in answer.services)


@pytest.mark.slow
def test_the_chain_equals_the_loop_and_ends() -> None:
    with ExitStack() as running:
        services = [running.enter_context(started("vae_decoder"))]
        targets = [services[0].target()]
        for module, *flags in (
            ("denoise_stage", "--steps", "2,3"),
            ("denoise_stage", "--steps", "0-1"),
            ("audio_encoder",),
        ):
            services.append(running.enter_context(started(module, "--next", targets[-1], *flags)))
            targets.append(services[-1].target())
        assert asyncio.run(run_session(targets[-1], targets[0])) == expected()
        check_description(asyncio.run(describe(targets[-1])))
        for service in reversed(services):
            code, log = service.end()
            assert code == 0
            (line,) = [line for line in log if line["event"] == "listening"]
            assert line["networks"] == "TINY, random weights (seed 0): the picture is noise"
            assert not [line for line in log if line["level"] == "error"]
