"""The decoder's own calls, over a real socket."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import grpc
import pytest
import torch
from PIL import Image

from live_avatar import wire
from live_avatar.cli.inputs import PORTRAIT, TRAINED
from live_avatar.model.portrait import prepare_portrait
from live_avatar.pipeline.v1.blocks_pb2 import Sink as SinkMessage
from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest, StreamBlocksResponse
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import (
    EncodePortraitRequest,
    EncodePortraitResponse,
    StreamVideoRequest,
    StreamVideoResponse,
)
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceStub
from live_avatar.services.vae_decoder import service, servicer
from live_avatar.services.vae_decoder.service import build
from live_avatar.services.vae_decoder.settings import VaeDecoderSettings
from live_avatar.serving.decode_pool import PoolRules
from live_avatar.serving.errors import ServiceError, from_rpc_error
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.link import Link
from live_avatar.serving.portraits import Portraits
from live_avatar.serving.telemetry import Telemetry
from live_avatar.streaming.local import warmup_latents
from live_avatar.v1.avatar_service_pb2 import FIT_COVER, FIT_UNSPECIFIED, Fit
from tests.serving.slow_decoding import SLOW

from . import tiny
from .tiny import key, open_request

if TYPE_CHECKING:
    from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceAsyncStub

COVER = FIT_COVER
Scenario: TypeAlias = "Callable[[VaeDecoderServiceAsyncStub, str], Awaitable[None]]"


@asynccontextmanager
async def decoder(
    settings: VaeDecoderSettings | None = None,
) -> "AsyncIterator[tuple[VaeDecoderServiceAsyncStub, str]]":
    telemetry = Telemetry("vae-decoder")
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    async with build(settings or VaeDecoderSettings(), telemetry) as service:
        service.register(server)
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with grpc.aio.insecure_channel(target) as channel:
            yield VaeDecoderServiceStub(channel), target
        await server.stop(None)


def against_a_decoder(scenario: Scenario, settings: VaeDecoderSettings | None = None) -> None:
    async def run() -> None:
        async with decoder(settings) as (stub, target):
            await scenario(stub, target)

    asyncio.run(run())


def portrait(size: tuple[int, int] = (90, 120)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert("RGB")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


async def encode(stub: "VaeDecoderServiceAsyncStub", request: EncodePortraitRequest) -> list[EncodePortraitResponse]:
    try:
        return [part async for part in stub.EncodePortrait(request, timeout=20)]
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def test_portrait_becomes_sink_version_0() -> None:
    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        request = EncodePortraitRequest(image=png(portrait()), width=64, height=64, fit=COVER)
        parts = await encode(stub, request)
        assert [part.part for part in parts] == list(range(len(parts)))
        assert {part.part_count for part in parts} == {len(parts)}
        message = SinkMessage.FromString(b"".join(part.data for part in parts))
        library = tiny.frame_decoder()
        expected = library.encode_portrait(prepare_portrait(portrait(), 64, 64, "cover"))
        sink, warmup = wire.sink_from_message(message), wire.warmup_from_message(message)
        assert sink.version == 0
        assert sink.motion is not None
        assert expected.motion is not None
        assert warmup is not None
        assert torch.equal(sink.reference, expected.reference)
        assert torch.equal(sink.motion, expected.motion)
        assert torch.equal(warmup, warmup_latents(expected, library)[:, : library.rules.warmup_latents])

    against_a_decoder(scenario)


def test_weights_report_how_unlike_their_training_a_portrait_is() -> None:
    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        for image, alike in ((PORTRAIT.read_bytes(), True), (png(portrait()), False)):
            parts = await encode(stub, EncodePortraitRequest(image=image, width=64, height=64, fit=COVER))
            novelty = parts[0].novelty
            assert (0 < novelty.measured <= novelty.threshold) == alike
            assert "photographs" in novelty.trained_on
            assert not any(part.HasField("novelty") for part in parts[1:])

    against_a_decoder(scenario, VaeDecoderSettings(weights=TRAINED))


def test_random_weights_know_no_portraits() -> None:
    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        request = EncodePortraitRequest(image=png(portrait()), width=64, height=64, fit=COVER)
        assert not any(part.HasField("novelty") for part in await encode(stub, request))

    against_a_decoder(scenario)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": b"<svg/>"}, "IMAGE_UNREADABLE"),
        ({"image": png(portrait())[:100]}, "IMAGE_UNREADABLE"),
        ({"image": b""}, "IMAGE_UNREADABLE"),
        ({"width": 65}, "SIZE_UNSUPPORTED"),
        ({"height": 6400}, "SIZE_UNSUPPORTED"),
        ({"fit": FIT_UNSPECIFIED}, "FIT_UNSUPPORTED"),
    ],
)
def test_portraits_that_are_refused(changes: dict[str, int | bytes], reason: str) -> None:
    request = EncodePortraitRequest(image=png(portrait()), width=64, height=64, fit=COVER)
    for field, value in changes.items():
        setattr(request, field, value)

    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        with pytest.raises(ServiceError) as caught:
            await encode(stub, request)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.reason == reason
        assert caught.value.field

    against_a_decoder(scenario)


def subscribe(name: str = "session") -> StreamVideoRequest:
    return StreamVideoRequest(subscribe=StreamVideoRequest.Subscribe(key=key(name)))


class Received:
    """What comes up a link."""

    def __init__(self) -> None:
        self.responses: asyncio.Queue[StreamBlocksResponse] = asyncio.Queue()

    def respond(self, response: StreamBlocksResponse) -> None:
        self.responses.put_nowait(response)

    def link_ready(self, ready: bool) -> None: ...

    def link_down(self, error: ServiceError) -> None: ...


@asynccontextmanager
async def open_session(target: str) -> AsyncIterator[Received]:
    link, received = Link(target, peer="test"), Received()
    running = asyncio.create_task(link.run(received))
    await link.wait_ready(5)
    await link.send(StreamBlocksRequest(open=open_request()))
    assert (await received.responses.get()).HasField("opened")
    yield received
    running.cancel()
    await asyncio.wait([running])


def test_sessions_end_with_the_stream_that_received_their_video() -> None:
    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        async with open_session(target) as received:
            call = stub.StreamVideo()
            await call.write(subscribe())
            response = await call.read()
            assert isinstance(response, StreamVideoResponse)
            assert response.subscribed.key == key()
            call.cancel()
            failed = (await asyncio.wait_for(received.responses.get(), 2)).session_failed
            assert failed.key == key()
            assert failed.reason == "STAGE_LOST"

    against_a_decoder(scenario)


def test_a_stream_beats_and_a_silent_gateway_is_lost() -> None:
    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        call = stub.StreamVideo()
        began = time.monotonic()
        await call.write(subscribe())
        kinds = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while isinstance(response := await call.read(), StreamVideoResponse):
                kinds.append(response.WhichOneof("payload"))
            raise AssertionError("the stream ended well")
        assert kinds[:2] == ["subscribed", "heartbeat"]
        error = from_rpc_error(caught.value)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STAGE_LOST")
        assert 2 < time.monotonic() - began < 15

    against_a_decoder(scenario)


def test_a_stream_that_the_gateway_ends_ends_well() -> None:
    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        call = stub.StreamVideo()
        await call.write(subscribe())
        await call.read()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK

    against_a_decoder(scenario)


def test_a_portrait_that_takes_too_long_is_refused_and_the_next_one_served(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = partial(
        Portraits,
        entries=("tests.serving.slow_decoding:measure", "tests.serving.slow_decoding:draw"),
    )
    monkeypatch.setattr(service, "PORTRAITS", PoolRules(processes=1, seconds=0.5))
    monkeypatch.setattr(service, "Portraits", stand_in)

    def request(width: int) -> EncodePortraitRequest:
        return EncodePortraitRequest(image=png(portrait((width, 64))), width=64, height=64, fit=COVER)

    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        with pytest.raises(ServiceError) as caught:
            await encode(stub, request(SLOW))
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_TOO_SLOW")
        assert await encode(stub, request(64))

    against_a_decoder(scenario)


def test_rules_of_fit_are_those_of_the_contract() -> None:
    named = {value for name, value in Fit.items() if name != "FIT_UNSPECIFIED"}
    assert set(servicer._RULES) == named


def test_portraits_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "MAX_PORTRAITS", 1)
    request = EncodePortraitRequest(image=png(portrait()), width=64, height=64, fit=COVER)

    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        both = await asyncio.gather(encode(stub, request), encode(stub, request), return_exceptions=True)
        served = [answer for answer in both if isinstance(answer, list)]
        refused = [answer for answer in both if isinstance(answer, ServiceError)]
        assert len(served) == len(refused) == 1
        assert refused[0].reason == "CAPACITY_EXHAUSTED"
        assert await encode(stub, request) == served[0]

    against_a_decoder(scenario)


def test_no_more_gateways_than_may_share_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "MAX_STREAMS", 2)

    async def scenario() -> None:
        async with decoder() as (stub, _):
            calls = [stub.StreamVideo() for _ in range(2)]
            for call in calls:
                await call.write(StreamVideoRequest(heartbeat=StreamVideoRequest.Heartbeat()))
                assert isinstance(await call.read(), StreamVideoResponse)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.StreamVideo().read()
            assert from_rpc_error(caught.value).reason == "CAPACITY_EXHAUSTED"
            await calls[0].done_writing()
            while await calls[0].read():
                pass
            assert isinstance(await stub.StreamVideo().read(), StreamVideoResponse)

    asyncio.run(scenario())


def test_a_session_opens_between_the_steps_of_portraits() -> None:
    async def scenario(stub: "VaeDecoderServiceAsyncStub", target: str) -> None:
        request = EncodePortraitRequest(image=png(portrait()), width=64, height=64, fit=COVER)
        link, received = Link(target, peer="test"), Received()
        running = asyncio.create_task(link.run(received))
        await link.wait_ready(5)
        encoding = {asyncio.create_task(encode(stub, request)) for _ in range(8)}
        await asyncio.wait(encoding, return_when=asyncio.FIRST_COMPLETED)
        before = sum(one.done() for one in encoding)
        await link.send(StreamBlocksRequest(open=open_request()))
        assert (await received.responses.get()).HasField("opened")
        assert sum(one.done() for one in encoding) <= before + 2
        running.cancel()
        await asyncio.wait([running, *encoding])
        assert all(one.result() for one in encoding)

    against_a_decoder(scenario)
