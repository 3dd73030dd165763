"""Video over the calling half of a stream: what a VAE decoder finishes, and the portraits it encodes.

The counterpart of ``live_avatar.serving.link`` at the other end of the chain.  Knows messages; nothing of sessions but
their keys.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias

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
from live_avatar.serving.errors import ServiceError, busy, calling, stage_lost
from live_avatar.serving.keys import key_name
from live_avatar.serving.parts import PartJoiner
from live_avatar.serving.streams.client import Connection, as_lost, keep_up
from live_avatar.serving.streams.mailbox import MailboxClosedError
from live_avatar.serving.timing import HopTiming
from live_avatar.serving.tls import ClientTls

if TYPE_CHECKING:
    from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceAsyncStub

_PEER = "the decoder"
"""In what clients read: addresses are for the log."""
_HEARTBEAT = StreamVideoRequest(heartbeat=StreamVideoRequest.Heartbeat())
_Connection: TypeAlias = Connection[StreamVideoRequest, StreamVideoResponse]

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
        """Video, a new sink or a finished block of a session came."""

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
        self._connection: _Connection | None = None
        self._subscribing: dict[Name, asyncio.Future[None]] = {}
        self._log = structlog.get_logger(__name__).bind(target=target)

    async def run(self, handler: VideoHandler) -> None:
        """Keeps the stream up until cancelled; to be run once, in a task of the owner's."""
        await keep_up(self._open, partial(self._use, handler), self._timing, self._log)

    async def subscribe(self, key: SessionKey, *, finished_blocks: bool = False) -> None:
        """Asks for the video of a session, and its finished blocks, and waits for the promise; raises ServiceError."""
        outbox, name = self._standing().outbox, key_name(key)
        promised = self._subscribing[name] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timing.connect_s):
                subscribe = StreamVideoRequest.Subscribe(key=key, finished_blocks=finished_blocks)
                await outbox.put(StreamVideoRequest(subscribe=subscribe))
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
        decoder = VaeDecoderServiceStub(self._standing().channel)
        try:
            async with asyncio.timeout(timeout_s):
                return await _encoded(decoder, request)
        except TimeoutError:
            # As with the promise of video: a decoder that is lost has long ended the call.
            raise busy(f"{_PEER} did not encode the portrait within {timeout_s} s") from None

    def _open(self) -> _Connection:
        return Connection(self.target, _PEER, _HEARTBEAT, self._timing, self._tls)

    async def _use(self, handler: VideoHandler, connection: _Connection) -> NoReturn:
        """Lives on ``connection`` until it ends, which raises ServiceError."""
        self.service = await self._meet(connection)
        self._connection = connection
        try:
            handler.video_up()
            await connection.run(partial(self._receive, handler))
        except ServiceError as error:
            self._disconnect()
            handler.video_down(as_lost(error))
            raise
        finally:
            self._disconnect()

    async def _meet(self, connection: _Connection) -> ServiceInfo:
        """Learns who is there and starts the stream."""
        with calling(_PEER):
            stub = PipelineServiceStub(connection.channel)
            answer = await stub.GetServiceInfo(GetServiceInfoRequest(), timeout=self._timing.connect_s)
        if not answer.services:
            raise stage_lost(f"{_PEER} does not say who it is")
        connection.start(VaeDecoderServiceStub(connection.channel).StreamVideo())
        connection.outbox.post(_HEARTBEAT)
        return answer.services[0]

    async def _receive(self, handler: VideoHandler, response: StreamVideoResponse) -> None:
        match response.WhichOneof("payload"):
            case "subscribed":
                promised = self._subscribing.get(key_name(response.subscribed.key))
                if promised is not None and not promised.done():
                    promised.set_result(None)
            case "video" | "new_sink" | "finished_block":
                handler.receive(response)

    def _standing(self) -> _Connection:
        if self._connection is None:
            raise stage_lost(f"no link to {_PEER}")
        return self._connection

    def _disconnect(self) -> None:
        self._connection = self.service = None
        for promised in self._subscribing.values():
            if not promised.done():
                promised.set_exception(stage_lost(f"the video stream of {_PEER} broke"))


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
