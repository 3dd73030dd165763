"""The stream that brings finished video from a VAE decoder, kept up for ever, and the portraits it encodes.

The counterpart of ``live_avatar.serving.link`` at the other end of the chain.  Knows messages and silence; nothing
of sessions but their keys.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

import grpc
import structlog

from live_avatar.novelty import Novelty
from live_avatar.pipeline.v1.blocks_pb2 import GetServiceInfoRequest, ServiceInfo, SessionKey
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import (
    EncodePortraitRequest,
    EncodePortraitResponse,
    StreamVideoRequest,
    StreamVideoResponse,
)
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceStub
from live_avatar.serving.backoff import Backoff
from live_avatar.serving.cancellation import CutShortError, endless
from live_avatar.serving.errors import STAGE_LOST, ServiceError, busy, calling, stage_lost
from live_avatar.serving.mailbox import Mailbox, MailboxClosedError
from live_avatar.serving.parts import PartJoiner
from live_avatar.serving.timing import CHANNEL_OPTIONS, HopTiming
from live_avatar.serving.tls import ClientTls, open_channel

if TYPE_CHECKING:
    from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceAsyncStub

_QUEUE_SIZE = 64
_PEER = "the decoder"
"""In what clients read: addresses are for the log."""

Name = tuple[str, int]
"""Session id and epoch, as a key of dictionaries."""


@dataclass(frozen=True)
class EncodedPortrait:
    """What a decoder makes of a portrait."""

    sink: bytes
    """Version 0, serialized."""
    novelty: Novelty | None
    """None where its weights do not know their training portraits."""


class VideoHandler(Protocol):
    """Who owns a video link.  Called in the event loop; must neither wait nor raise."""

    def receive(self, response: StreamVideoResponse) -> None:
        """Video or a new sink of a session came."""

    def video_up(self) -> None:
        """The stream stands; ``VideoLink.service`` says with whom."""

    def video_down(self, error: ServiceError) -> None:
        """The stream broke; what its sessions were about to receive is lost."""


class VideoLink:
    """One long-lived stream from the decoder at ``target``; reconnects until ``run`` is cancelled."""

    def __init__(self, target: str, timing: HopTiming, tls: ClientTls | None = None) -> None:
        self.target = target
        self.service: ServiceInfo | None = None
        """What the decoder says of itself; None while the stream is down."""
        self._timing = timing
        self._tls = tls
        self._outbox: Mailbox[StreamVideoRequest] | None = None
        self._decoder: VaeDecoderServiceAsyncStub | None = None
        self._subscribing: dict[Name, asyncio.Future[None]] = {}
        self._log = structlog.get_logger(__name__).bind(target=target)

    async def run(self, handler: VideoHandler) -> None:
        """Keeps the stream up until cancelled; to be run once, in a task of the owner's."""
        backoff = Backoff(self._timing.backoff_min_s, self._timing.backoff_max_s)
        while True:
            error, lived = await self._live_once(handler)
            self._log.warning("video link down", reason=error.reason, error=error.message, detail=error.detail)
            if lived:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def subscribe(self, key: SessionKey) -> None:
        """Asks for the video of a session and waits for the promise; raises ServiceError."""
        if self._outbox is None:
            raise stage_lost(f"no video from {_PEER}")
        name = (key.session_id, key.epoch)
        promised = self._subscribing[name] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timing.connect_s):
                await self._outbox.put(StreamVideoRequest(subscribe=StreamVideoRequest.Subscribe(key=key)))
                await promised
        except MailboxClosedError:
            raise stage_lost(f"the video stream of {_PEER} broke") from None
        except TimeoutError:
            # Silence would have ended the stream, and the promise with it, far earlier.
            raise busy(f"{_PEER} promised no video within {self._timing.connect_s} s") from None
        finally:
            self._subscribing.pop(name, None)

    async def encode_portrait(self, request: EncodePortraitRequest, timeout_s: float) -> EncodedPortrait:
        """Sink version 0 of a portrait, and how like the training portraits it is; raises ServiceError."""
        if self._decoder is None:
            raise stage_lost(f"no link to {_PEER}")
        try:
            async with asyncio.timeout(timeout_s):
                return await _encoded(self._decoder, request)
        except TimeoutError:
            # As with the promise of video: a decoder that is lost has long ended the call.
            raise busy(f"{_PEER} did not encode the portrait within {timeout_s} s") from None

    async def _live_once(self, handler: VideoHandler) -> tuple[ServiceError, bool]:
        """One connection from dialling to its end; says why it ended and whether it had been up."""
        channel = open_channel(self.target, self._tls, CHANNEL_OPTIONS)
        up = False
        try:
            with calling(_PEER):
                await self._meet(channel)
                up = True
                handler.video_up()
                await self._serve(handler)
        except ServiceError as lost:
            error = _lost(lost)
        except (TimeoutError, CutShortError):
            error = stage_lost(f"{_PEER} is silent or gone")
        finally:
            self._drop_portraits()
            await channel.close()
        if up:
            handler.video_down(error)
        return error, up

    async def _meet(self, channel: grpc.aio.Channel) -> None:
        """Learns who is there and gets the stream ready."""
        answer = await PipelineServiceStub(channel).GetServiceInfo(
            GetServiceInfoRequest(), timeout=self._timing.connect_s
        )
        if not answer.services:
            raise stage_lost(f"{_PEER} does not say who it is")
        self._decoder = VaeDecoderServiceStub(channel)
        self._outbox = Mailbox(_QUEUE_SIZE)
        self.service = answer.services[0]

    async def _serve(self, handler: VideoHandler) -> NoReturn:
        """Lives until the stream breaks, which raises."""
        assert self._decoder is not None and self._outbox is not None, "whom we met, we can serve"
        call = self._decoder.StreamVideo()
        try:
            await endless(
                _write_all(self._outbox, call.write), self._heartbeats(self._outbox), self._read_all(call.read, handler)
            )
        finally:
            call.cancel()

    async def _heartbeats(self, outbox: Mailbox[StreamVideoRequest]) -> None:
        while True:
            await outbox.put(StreamVideoRequest(heartbeat=StreamVideoRequest.Heartbeat()))
            await asyncio.sleep(self._timing.heartbeat_s)

    async def _read_all(self, read: Callable[[], Awaitable[object]], handler: VideoHandler) -> None:
        while True:
            async with asyncio.timeout(self._timing.silence_s):
                response = await read()
            if not isinstance(response, StreamVideoResponse):
                raise stage_lost(f"{_PEER} ended the video stream")
            match response.WhichOneof("payload"):
                case "subscribed":
                    self._keep_promise(response.subscribed.key)
                case "video" | "new_sink":
                    handler.receive(response)

    def _keep_promise(self, key: SessionKey) -> None:
        promised = self._subscribing.get((key.session_id, key.epoch))
        if promised is not None and not promised.done():
            promised.set_result(None)

    def _drop_portraits(self) -> None:
        if self._outbox is not None:
            self._outbox.close()
        self._outbox = self._decoder = self.service = None
        for promised in self._subscribing.values():
            if not promised.done():
                promised.set_exception(stage_lost(f"the video stream of {_PEER} broke"))


async def _write_all(
    outbox: Mailbox[StreamVideoRequest], write: Callable[[StreamVideoRequest], Awaitable[None]]
) -> None:
    while True:
        await write(await outbox.get())


async def _encoded(decoder: "VaeDecoderServiceAsyncStub", request: EncodePortraitRequest) -> EncodedPortrait:
    joiner, joined, novelty = PartJoiner(), None, None
    with calling(_PEER):
        async for piece in decoder.EncodePortrait(request):
            joined = joiner.add(piece.part, piece.part_count, piece.data)
            novelty = _novelty(piece) or novelty
    if joined is None:
        raise stage_lost(f"{_PEER} sent an incomplete sink")
    return EncodedPortrait(joined, novelty)


def _novelty(piece: EncodePortraitResponse) -> Novelty | None:
    if not piece.HasField("novelty"):
        return None
    novelty = piece.novelty
    return Novelty(measured=novelty.measured, threshold=novelty.threshold, trained_on=novelty.trained_on)


def _lost(error: ServiceError) -> ServiceError:
    return error if error.reason == STAGE_LOST else stage_lost(error.message, error.detail)
