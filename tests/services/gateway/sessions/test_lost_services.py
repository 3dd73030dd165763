"""A service is lost, or has no time: at any moment the client is given the true reason and when to come again."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import pytest

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import EncodePortraitRequest
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.observer import NoObserver
from live_avatar.serving.timing import HopTiming
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import BLOCK_SAMPLES, Gateway, Talk, failure, gateway, tone
from tests.services.gateway.fake_pipeline import CountingDecoder, FakePipeline, PassingWork, fake_pipeline
from tests.services.gateway.wire import Wire, relayed
from tests.serving.fakes import until

pytestmark = pytest.mark.alone

HOLD_S = 20.0
"""Longest that a test holds a device."""
STREAMING = api.LISTENING_STREAMING


@dataclass
class Wired:
    """A gateway whose lines to head and decoder can be cut, and which does not wait for another pipeline."""

    gateway: Gateway
    wires: dict[str, Wire]


@asynccontextmanager
async def wired(encoder: PassingWork | None = None, decoder: CountingDecoder | None = None) -> AsyncIterator[Wired]:
    async with (
        fake_pipeline(encoder=encoder, decoder=decoder) as pipeline,
        relayed(pipeline.head) as head,
        relayed(pipeline.tail) as tail,
        gateway(
            replace(pipeline, head=head.address, tail=tail.address), settings={"limits": {"resume_seconds": 0}}
        ) as running,
    ):
        yield Wired(running, {"head": head, "decoder": tail})


class SlowToOpen(PassingWork):
    """Reserves a session only when it is let."""

    def __init__(self) -> None:
        super().__init__(4)
        self.opening = threading.Event()
        self.let = threading.Event()

    def open(self, request: StreamBlocksRequest.Open) -> int:
        self.opening.set()
        self.let.wait(HOLD_S)
        return super().open(request)


def check_lost(error: ServiceError, system: Wired) -> None:
    """STAGE_LOST, when to come again, and nothing of how it looks inside."""
    assert (error.code, error.reason, error.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, "STAGE_LOST", 1.0)
    inside = ("127.0.0.1", "ipv4", "grpc", "Error", *(wire.address for wire in system.wires.values()))
    assert not [word for word in inside if word in error.message], error.message


@pytest.mark.parametrize("how", [Wire.reset, Wire.close, Wire.hold])
def test_while_a_session_is_created(how: Callable[[Wire], None]) -> None:
    async def scenario() -> None:
        encoder = SlowToOpen()
        async with wired(encoder) as system:
            creating = asyncio.create_task(failure(system.gateway.create))
            await until(encoder.opening.is_set)
            how(system.wires["head"])
            try:
                check_lost(await creating, system)
            finally:
                encoder.let.set()

    asyncio.run(scenario())


@pytest.mark.parametrize("how", [Wire.reset, Wire.close, Wire.hold])
def test_while_its_portrait_is_encoded(how: Callable[[Wire], None]) -> None:
    async def scenario() -> None:
        decoder = CountingDecoder(4)
        decoder.portrait_encoded.clear()
        async with wired(decoder=decoder) as system:
            made = await system.gateway.create(listening=STREAMING)
            await until(lambda: bool(decoder.portraits))
            async with Talk(system.gateway.stub) as talk:
                await talk.open(made.session_token)
                how(system.wires["decoder"])
                check_lost(await talk.failure(), system)
            decoder.portrait_encoded.set()

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", ["head", "decoder"])
@pytest.mark.parametrize("how", [Wire.reset, Wire.close])
def test_while_it_streams(victim: str, how: Callable[[Wire], None]) -> None:
    async def scenario() -> None:
        async with wired() as system:
            made = await system.gateway.create(listening=STREAMING)
            async with Talk(system.gateway.stub) as talk:
                await talk.open(made.session_token)
                await talk.speak(tone(BLOCK_SAMPLES * 8))
                await talk.receive()
                how(system.wires[victim])
                check_lost(await talk.failure(), system)

    asyncio.run(scenario())


@pytest.mark.parametrize("use", ["stream", "interrupt"])
def test_before_anybody_opened_its_stream(use: str) -> None:
    """The gateway has freed it long before the client comes."""

    async def scenario() -> None:
        async with wired() as system:
            made = await system.gateway.create()
            system.wires["head"].reset()
            await until(lambda: not system.gateway.service.ready())
            await asyncio.sleep(1.5)
            check_lost(await _used(system.gateway, made, use), system)

    asyncio.run(scenario())


async def _used(running: Gateway, made: api.CreateSessionResponse, use: str) -> ServiceError:
    if use == "interrupt":
        request = api.InterruptSessionRequest(session_id=made.session.session_id)
        return await failure(lambda: running.stub.InterruptSession(request, timeout=5))
    async with Talk(running.stub) as talk:
        await talk.say(open=api.StreamAvatarRequest.Open(session_token=made.session_token))
        return await talk.failure()


class Nobody:
    """A session that nothing happens to."""

    def lose(self, error: ServiceError) -> None: ...

    def receive_video(self, video: object) -> None: ...

    def receive_sink(self, data: bytes) -> None: ...

    def receive_finished(self, piece: object) -> None: ...


@asynccontextmanager
async def near(fake: FakePipeline) -> AsyncIterator[Pipeline]:
    """A pipeline of a gateway that waits for answers for a short time."""
    timing = HopTiming(connect_s=1.0)
    pipeline = Pipeline(fake.head, fake.tail, timing=timing, allow_shared_devices=False, observer=NoObserver())
    running = asyncio.create_task(pipeline.run())
    try:
        await until(lambda: pipeline.ready)
        yield pipeline
    finally:
        running.cancel()
        await asyncio.wait([running])


async def refused(attempt: Callable[[], Awaitable[object]]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await attempt()
    return caught.value


def test_a_device_that_is_busy_has_no_room_and_is_not_lost() -> None:
    async def scenario() -> None:
        encoder = SlowToOpen()
        async with fake_pipeline(encoder=encoder) as fake, near(fake) as pipeline:
            request = StreamBlocksRequest.Open(key=SessionKey(session_id="a", epoch=1), width=64, height=64)
            error = await refused(lambda: pipeline.open(request, Nobody()))
            encoder.let.set()
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")
            assert error.retry_after_s == 5.0 and pipeline.ready
            async with asyncio.timeout(5):
                while fake.sessions_held or pipeline.in_use:  # noqa: ASYNC110 - device threads change it
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_a_decoder_that_is_busy_with_other_portraits_is_not_lost() -> None:
    async def scenario() -> None:
        async with fake_pipeline() as fake, near(fake) as pipeline:
            fake.decoder.portrait_encoded.clear()
            error = await refused(lambda: pipeline.encode_portrait(EncodePortraitRequest(), 0.5))
            fake.decoder.portrait_encoded.set()
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")
            assert error.retry_after_s == 5.0 and pipeline.ready

    asyncio.run(scenario())
