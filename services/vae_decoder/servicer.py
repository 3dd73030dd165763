"""The two calls that only the decoder answers: a portrait becomes a sink, and video leaves to gateways.

Translates and delegates.  Portraits are decoded in processes of their own and encoded in the device thread, one at a
time and in short steps, so that neither sessions that begin nor blocks wait behind portraits.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict

import grpc
import numpy as np
from torch import Tensor

from live_avatar import wire
from live_avatar.config import Preset
from live_avatar.model.novelty import TrainingPortraits
from live_avatar.model.portrait import portrait_tensor
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import (
    EncodePortraitRequest,
    EncodePortraitResponse,
    StreamVideoRequest,
    StreamVideoResponse,
)
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceServicer
from live_avatar.portrait.fitting import FitRule
from live_avatar.services.vae_decoder.subscribers import SubscriberRegistry, VideoStream
from live_avatar.serving.errors import ServiceError, stage_lost
from live_avatar.serving.parts import cut
from live_avatar.serving.portraits import Portraits
from live_avatar.serving.streams.server import ServerStream
from live_avatar.serving.timing import HopTiming
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.local import warmup_latents
from live_avatar.streaming.picture import latent_size
from live_avatar.v1.avatar_service_pb2 import FIT_COVER, FIT_REFERENCE

VideoContext = grpc.aio.ServicerContext[StreamVideoRequest, StreamVideoResponse]
PortraitContext = grpc.aio.ServicerContext[EncodePortraitRequest, EncodePortraitResponse]

MAX_PORTRAITS = 16
"""At the same time, waiting ones included."""
MAX_STREAMS = 64
"""Gateways that may share one decoder."""

_RULES: dict[int, FitRule] = {
    FIT_COVER: "cover",
    FIT_REFERENCE: "reference",
}

_Encoded = tuple[bytes, EncodePortraitResponse.Novelty | None]


class VaeDecoderServicer(VaeDecoderServiceServicer):
    """Answers ``VaeDecoderService``."""

    def __init__(
        self,
        preset: Preset,
        decoder: FrameDecoder,
        *,
        subscribers: SubscriberRegistry,
        device_thread: Executor,
        portraits: Portraits,
        fail_session: Callable[[SessionKey, ServiceError], None],
        training_portraits: TrainingPortraits | None = None,
        timing: HopTiming | None = None,
    ) -> None:
        self._preset = preset
        self._decoder = decoder
        self._subscribers = subscribers
        self._device_thread = device_thread
        self._portraits = portraits
        self._fail_session = fail_session
        self._training_portraits = training_portraits
        self._timing = timing or HopTiming()
        self._held_portraits = 0
        self._encoding = asyncio.Lock()
        self._streams = 0

    async def EncodePortrait(
        self, request: EncodePortraitRequest, context: PortraitContext
    ) -> AsyncIterator[EncodePortraitResponse]:
        """Encodes a portrait to sink version 0 (spec 2.7)."""
        if self._held_portraits >= MAX_PORTRAITS:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED", f"{MAX_PORTRAITS} portraits wait already"
            )
        self._held_portraits += 1
        try:
            sink, novelty = await self._encode(await self._read(request))
            pieces = cut(sink)
        finally:
            self._held_portraits -= 1
        for part, piece in enumerate(pieces):
            measured = novelty if part == 0 else None
            yield EncodePortraitResponse(part=part, part_count=len(pieces), data=piece, novelty=measured)

    async def StreamVideo(  # type: ignore[override]  # gRPC takes this form too: a coroutine that writes by itself
        self, request_iterator: AsyncIterator[StreamVideoRequest], context: VideoContext
    ) -> None:
        """Carries the video of one gateway's sessions until it ends the stream; its sessions end with it."""
        if self._streams >= MAX_STREAMS:
            message = f"{MAX_STREAMS} gateways are here already"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED", message)
        self._streams += 1
        try:
            await self._carry(context)
        finally:
            self._streams -= 1

    async def _carry(self, context: VideoContext) -> None:
        video = VideoStream()

        async def receive(request: StreamVideoRequest) -> None:
            if request.HasField("subscribe"):
                subscribe = request.subscribe
                self._subscribers.subscribe(subscribe.key, video, finished_blocks=subscribe.finished_blocks)

        try:
            await ServerStream(context, video, _heartbeat, self._timing, _gateway_lost).run(receive)
        finally:
            for key in self._subscribers.unsubscribe_stream(video):
                self._fail_session(key, stage_lost("the gateway that received the video is gone"))

    async def _read(self, request: EncodePortraitRequest) -> Tensor:
        """The picture as model input [3, H, W]."""
        if request.fit not in _RULES:
            raise _invalid("FIT_UNSUPPORTED", f"fit {request.fit} is not served", "fit")
        try:
            latent_size(self._preset, request.width, request.height)
        except ValueError as error:
            raise _invalid("SIZE_UNSUPPORTED", str(error), "width") from error
        size = request.height, request.width
        drawn = await self._portraits.draw(request.image, *size, _RULES[request.fit])
        return portrait_tensor(np.frombuffer(bytearray(drawn), np.uint8).reshape(*size, 3))

    async def _encode(self, pixels: Tensor) -> _Encoded:
        """Takes turns with the other work of the device after each step."""
        loop = asyncio.get_running_loop()
        async with self._encoding:
            steps, encoded = self._encode_in_steps(pixels), None
            while encoded is None:
                encoded = await loop.run_in_executor(self._device_thread, next, steps)
        return encoded

    def _encode_in_steps(self, pixels: Tensor) -> Iterator[_Encoded | None]:
        """None after each step, at last the sink, serialized, and how like the training portraits the picture is."""
        vae = self._decoder.vae
        sink = yield from self._decoder.encode_portrait_in_steps(pixels.to(vae.from_latents.weight.device))
        warmup = warmup_latents(sink, self._decoder)[:, : self._decoder.rules.warmup_latents]
        message, novelty = wire.sink_to_message(sink, warmup).SerializeToString(), None
        if self._training_portraits is not None:
            novelty = EncodePortraitResponse.Novelty(**asdict(self._training_portraits.novelty(vae, pixels)))
        yield message, novelty


def _heartbeat() -> StreamVideoResponse:
    return StreamVideoResponse(heartbeat=StreamVideoResponse.Heartbeat())


def _gateway_lost(why: str) -> ServiceError:
    return stage_lost(f"the gateway {why}")


def _invalid(reason: str, message: str, field: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
