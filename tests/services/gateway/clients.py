"""A gateway in process before a fake pipeline, and a client that says exactly what a test wants."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import grpc
import numpy as np
from PIL import Image

from live_avatar.proxies import DIRECT
from live_avatar.services.gateway.service import build
from live_avatar.services.gateway.settings import GatewaySettings
from live_avatar.serving.errors import ServiceError, from_rpc_error
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.server import Service
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from live_avatar.v1.media_pb2 import AudioFormat, VideoFormat
from tests.services.gateway.fake_pipeline import FakePipeline, fake_pipeline, level

if TYPE_CHECKING:
    from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceAsyncStub

RATE_HZ = 16_000
BLOCK_SAMPLES = 7_680
SMALL_WINDOWS = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
"""As on a public port."""
Request = api.StreamAvatarRequest
Response = api.StreamAvatarResponse


def portrait(size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (200, 150, 120)).save(data, kind)
    return data.getvalue()


def create_request(**config: Any) -> api.CreateSessionRequest:
    """A request that is fine but for what ``config`` says otherwise."""
    audio = AudioFormat(encoding=AudioFormat.ENCODING_PCM_S16LE, sample_rate_hz=RATE_HZ, channel_count=1)
    return api.CreateSessionRequest(reference_image=portrait(), config=api.SessionConfig(**({"audio": audio} | config)))


def audio_format(
    rate_hz: int = RATE_HZ,
    encoding: "AudioFormat.Encoding.ValueType" = AudioFormat.ENCODING_PCM_S16LE,
    channels: int = 1,
) -> AudioFormat:
    return AudioFormat(encoding=encoding, sample_rate_hz=rate_hz, channel_count=channels)


def video_format(encoding: "VideoFormat.Encoding.ValueType") -> VideoFormat:
    return VideoFormat(encoding=encoding)


def tone(samples: int, rate_hz: int = RATE_HZ) -> bytes:
    wave = 0.3 * np.sin(2 * np.pi * 220 * np.arange(samples) / rate_hz)
    return (wave * 32_767).astype("<i2").tobytes()


@dataclass
class Gateway:
    """A gateway under test."""

    stub: "AvatarServiceAsyncStub"
    pipeline: FakePipeline
    service: Service
    target: str

    async def create(self, **config: Any) -> api.CreateSessionResponse:
        return await self.stub.CreateSession(create_request(**config), timeout=30)

    async def info(self) -> api.GetServerInfoResponse:
        return await self.stub.GetServerInfo(api.GetServerInfoRequest(), timeout=30)

    async def wait_ready(self) -> None:
        """Returns once the gateway takes sessions."""
        async with asyncio.timeout(30):
            while not (await self.info()).session_capacity:  # noqa: ASYNC110 - another process would be asked so too
                await asyncio.sleep(0.02)

    async def freed(self) -> None:
        """Returns once neither the gateway nor a service holds a session."""
        async with asyncio.timeout(20):
            while self.pipeline.sessions_held or (await self.info()).sessions_open:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)


@asynccontextmanager
async def gateway(
    pipeline: FakePipeline, *, settings: dict[str, Any] | None = None, wait: bool = True
) -> AsyncIterator[Gateway]:
    """A gateway before ``pipeline``, on a free port."""
    plain = {"pipelines": (pipeline.address,), "disclosure": {"text": ""}}
    chosen = GatewaySettings(**{**plain, **(settings or {})})
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(Telemetry("gateway"))
        service = await stack.enter_async_context(build(chosen, telemetry))
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor(telemetry), *service.interceptors], options=SMALL_WINDOWS
        )
        service.register(server)
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, None)
        options = (*DIRECT, ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, options=options))
        running = Gateway(AvatarServiceStub(channel), pipeline, service, target)
        if wait:
            await running.wait_ready()
        yield running


@asynccontextmanager
async def whole_system(capacity: int = 4, settings: dict[str, Any] | None = None) -> AsyncIterator[Gateway]:
    """A gateway and its pipeline."""
    async with fake_pipeline(capacity) as pipeline, gateway(pipeline, settings=settings) as running:
        yield running


class _TooLateError(Exception):
    """A write failed because the call has ended."""


class _KeepsStatus:
    """The lower half of a call whose failed writes leave the server's status alone, and do not wait for it either.

    Whoever writes and reads in turns would wait for ever: the status comes after what is still to be read.
    """

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_internal_error(self, details: str) -> None:
        raise _TooLateError(details)


class Talk:
    """One StreamAvatar call, message by message."""

    def __init__(self, stub: "AvatarServiceAsyncStub") -> None:
        call: Any = stub.StreamAvatar()
        call._cython_call = _KeepsStatus(call._cython_call)
        self._call = call
        self._ends: list[grpc.aio.AioRpcError] = []
        self._call.add_done_callback(lambda call: self._ends.append(_status(call)))
        self._sequence = -1
        self._offset = 0
        self._owed = 0

    async def __aenter__(self) -> "Talk":
        return self

    async def __aexit__(self, *error: object) -> None:
        self._call.cancel()

    def cancel(self) -> None:
        """Ends the call without a word."""
        self._call.cancel()

    async def grant(self, units: int, *, now: bool = True) -> None:
        """Gives credits; while another task speaks, with its next message."""
        if not now:
            self._owed += units
        elif units and not self._call.done():
            # The server may end the call at any moment once all video is written, whatever is still to be read here.
            with suppress(grpc.aio.AioRpcError):
                await self.say(credit=Request.Credit(video_units=units))

    async def say(self, sequence: int | None = None, **payload: Any) -> None:
        if self._owed:
            owed, self._owed = self._owed, 0
            await self.say(credit=Request.Credit(video_units=owed))
        self._sequence = self._sequence + 1 if sequence is None else sequence
        # What comes after the server's last word is lost; how the call ended is told by what is heard.
        with suppress(_TooLateError):
            await self._call.write(Request(client_sequence=self._sequence, **payload))

    async def write(self, request: Request) -> None:
        """Sends a message as it is."""
        with suppress(_TooLateError):
            await self._call.write(request)

    async def open(self, token: str, credits: int = 1_000) -> Response:
        await self.say(open=Request.Open(session_token=token, initial_video_credits=credits))
        return await self.receive()

    async def speak(self, data: bytes, sample_bytes: int = 2, utterance: str = "") -> None:
        chunk = Request.AudioChunk(data=data, sample_offset=self._offset, utterance_id=utterance)
        self._offset += len(data) // sample_bytes
        await self.say(audio_chunk=chunk)

    async def end_utterance(self, utterance: str = "") -> None:
        self._offset = 0
        await self.say(end_of_utterance=Request.EndOfUtterance(utterance_id=utterance))

    def drop_utterance(self) -> None:
        """What is spoken next is a new one."""
        self._offset = 0

    async def finish(self) -> None:
        await self.say(finish=Request.Finish())

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def receive(self, timeout_s: float = 30) -> Response:
        """The next response; raises AioRpcError where the stream failed, EOFError where it ended."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._call.read()
        except grpc.aio.AioRpcError:
            raise self._ends[0] from None
        if not isinstance(response, Response):
            await self._call.code()
            if self._ends[0].code() is not grpc.StatusCode.OK:
                raise self._ends[0]
            raise EOFError
        return response

    async def rest(self) -> list[Response]:
        """All responses up to the end, which must be a good one."""
        received = []
        try:
            while True:
                received.append(await self.receive())
        except EOFError:
            return received

    async def failure(self) -> ServiceError:
        """The error the stream ends with."""
        try:
            while True:
                await self.receive()
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        except EOFError:
            raise AssertionError("the stream ended well") from None


def _status(call: Any) -> grpc.aio.AioRpcError:
    """What a call has just ended with."""
    code, initial, trailing, details = (
        _at_once(one()) for one in (call.code, call.initial_metadata, call.trailing_metadata, call.details)
    )
    return grpc.aio.AioRpcError(code, initial, trailing, details)


def _at_once(answer: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the call has not ended")


def units(responses: Sequence[Response]) -> list[Response.VideoUnit]:
    return [response.video_unit for response in responses if response.HasField("video_unit")]


async def failure(call: Callable[[], Any]) -> ServiceError:
    """The error of a unary call."""
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call went well")


def levels(data: bytes, form: str = "mp4") -> list[int]:
    """Grey level of each frame of a film."""
    with av.open(io.BytesIO(data), "r", format=form) as file:
        return [round(float(frame.to_ndarray(format="gray").mean())) for frame in file.decode(video=0)]


def is_movie(found: list[int], frames: int, seed: int = 0) -> bool:
    """Whether a film shows the frames 0 to ``frames`` - 1 of a session, none lost and none twice."""
    wanted = [level(frame, seed) for frame in range(frames)]
    # Luma lies in 16..235, and encoding costs a little.
    return len(found) == frames and all(
        abs(16 + want * 219 / 255 - got) < 12 or abs(want - got) < 12 for want, got in zip(wanted, found, strict=True)
    )


async def movie(gateway: Gateway, samples: int, **config: Any) -> list[Response]:
    """All responses of a session that speaks ``samples`` and ends."""
    made = await gateway.create(**config)
    async with Talk(gateway.stub) as talk:
        received = [await talk.open(made.session_token)]
        for first in range(0, samples, RATE_HZ):
            await talk.speak(tone(min(RATE_HZ, samples - first)))
        await talk.finish()
        return received + await talk.rest()
