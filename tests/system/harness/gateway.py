"""As much of a gateway as sessions need, and the two ends a chain may have: a real decoder or one that keeps latents.

Knows messages and streams; knows no networks of its own, it asks ``reference.py`` what to send.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import grpc
from torch import Tensor

from live_avatar import wire
from live_avatar.pipeline.v1 import blocks_pb2
from live_avatar.pipeline.v1.blocks_pb2 import (
    ConditioningBody,
    GetServiceInfoRequest,
    GetServiceInfoResponse,
    ServiceInfo,
    SessionKey,
    StreamBlocksRequest,
    StreamBlocksResponse,
    VideoProfile,
)
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub, add_PipelineServiceServicer_to_server
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import (
    EncodePortraitRequest,
    StreamVideoRequest,
    StreamVideoResponse,
)
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceStub
from live_avatar.serving.errors import ServiceError, from_session_failed
from live_avatar.serving.hop import HopServer
from live_avatar.serving.link import Link
from live_avatar.serving.parts import conditioning_parts
from live_avatar.serving.server import SERVER_OPTIONS
from live_avatar.serving.timing import CHANNEL_OPTIONS
from live_avatar.serving.work import Completion
from live_avatar.streaming.block import Sink
from live_avatar.v1.avatar_service_pb2 import LISTENING_STREAMING, LISTENING_WHOLE_FILE, BlockTiming

from .processes import address

READY_S = 90.0
ANSWER_S = 60.0
Name = tuple[str, int]
T = TypeVar("T")
_Open = StreamBlocksRequest.Open


def new_session() -> Name:
    """A session that no service has heard of."""
    return uuid4().hex, 1


def name_of(key: SessionKey) -> Name:
    """A key that can be looked up."""
    return key.session_id, key.epoch


def key_of(name: Name) -> SessionKey:
    """The message for ``name``."""
    return SessionKey(session_id=name[0], epoch=name[1])


class Board(dict[object, "asyncio.Future[T]"]):
    """Things to come, by name: whoever asks waits until somebody has pinned them."""

    def __missing__(self, name: object) -> "asyncio.Future[T]":
        future = self[name] = asyncio.get_running_loop().create_future()
        return future

    def pin(self, name: object, value: T) -> None:
        """Makes ``value`` known; the first one stays."""
        if not self[name].done():
            self[name].set_result(value)


class Output(Protocol):
    """Where finished blocks come out."""

    async def subscribe(self, key: SessionKey) -> None:
        """Makes the session's output come here; to be called before its first block."""

    async def own_sink(self, name: Name) -> blocks_pb2.Sink:
        """The model's own first latent."""

    async def finished(self, name: Name, block: int) -> None:
        """Returns when the block has come out."""


class LatentOutput:
    """The end of a chain that keeps every latent: a ``Work`` and an ``Output``."""

    def __init__(self) -> None:
        self._latents: Board[Tensor] = Board()
        self.held: set[Name] = set()

    def open(self, request: StreamBlocksRequest.Open) -> int:
        self.held.add(name_of(request.key))
        return 1

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        raise AssertionError("audio came to the end of the chain")

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        return ()

    def block(self, block: StreamBlocksRequest.Block) -> Completion:
        latent = wire.tensor_from_message(block.latent, "latent")

        async def deliver(timing: BlockTiming) -> None:
            self._latents.pin((*name_of(block.key), block.index), latent)

        return deliver

    def close(self, key: SessionKey) -> int:
        self.held.discard(name_of(key))
        return 1

    async def subscribe(self, key: SessionKey) -> None: ...

    async def latent(self, name: Name, block: int) -> Tensor:
        """Clean latent [16, F, h, w] of a block."""
        return await asyncio.shield(self._latents[*name, block])

    async def own_sink(self, name: Name) -> blocks_pb2.Sink:
        first = await self.latent(name, 0)
        return wire.sink_to_message(Sink(version=1, reference=first[:, :1], motion=None))

    async def finished(self, name: Name, block: int) -> None:
        await self.latent(name, block)


class VideoOutput:
    """The video stream of a real decoder."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._stub = VaeDecoderServiceStub(self._channel)
        self._call = self._stub.StreamVideo()
        self._writing = asyncio.Lock()  # gRPC takes one message at a time
        self._subscribed: Board[bool] = Board()
        self._sinks: Board[bytes] = Board()
        self._finished: Board[bool] = Board()
        self.finished_blocks: dict[tuple[str, int, int], bytes] = {}
        """What a later incarnation is primed with, by session, epoch and block."""
        self.videos: list[StreamVideoResponse.Video] = []

    async def encode_portrait(self, request: EncodePortraitRequest) -> bytes:
        """Sink version 0 of an ``EncodePortraitRequest``, serialized."""
        return b"".join([part.data async for part in self._stub.EncodePortrait(request)])

    async def read(self) -> None:
        """Takes what comes until the decoder ends the stream."""
        try:
            while isinstance(response := await self._call.read(), StreamVideoResponse):
                self._take(response)
        except grpc.aio.AioRpcError:
            return  # the end of the decoder; its sessions are told by the chain

    async def heartbeat_message(self) -> None:
        """Says that this side lives until the decoder ends the stream."""
        while not self._call.done():
            await asyncio.sleep(1)
            try:
                await self._write(StreamVideoRequest(heartbeat=StreamVideoRequest.Heartbeat()))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return

    async def close(self) -> None:
        """Ends the stream."""
        self._call.cancel()
        await self._channel.close()
        # The socket ends with the last of these; nobody who still holds this object may keep it.
        del self._call, self._stub, self._channel

    async def subscribe(self, key: SessionKey) -> None:
        subscribe = StreamVideoRequest.Subscribe(key=key, finished_blocks=True)
        await self._write(StreamVideoRequest(subscribe=subscribe))
        await asyncio.shield(self._subscribed[name_of(key)])

    async def own_sink(self, name: Name) -> blocks_pb2.Sink:
        return blocks_pb2.Sink.FromString(await asyncio.shield(self._sinks[name]))

    async def finished(self, name: Name, block: int) -> None:
        await asyncio.shield(self._finished[*name, block])

    def frames(self, name: Name) -> list[tuple[int, bytes]]:
        """Number and bytes of every picture of a session, in the order in which they came."""
        return [
            (video.first_frame + position, frame)
            for video in self.videos
            if name_of(video.key) == name
            for position, frame in enumerate(video.frames)
        ]

    async def _write(self, request: StreamVideoRequest) -> None:
        async with self._writing:
            await self._call.write(request)

    def _take(self, response: StreamVideoResponse) -> None:
        if response.HasField("subscribed"):
            self._subscribed.pin(name_of(response.subscribed.key), True)
        elif response.HasField("new_sink"):
            self._sinks.pin(name_of(response.new_sink.key), response.new_sink.data)
        elif response.HasField("finished_block"):
            piece = response.finished_block
            name = (*name_of(piece.key), piece.block_index)
            self.finished_blocks[name] = self.finished_blocks.get(name, b"") + piece.data
        elif response.HasField("video"):
            self.videos.append(response.video)
            if response.video.last:
                self._finished.pin((*name_of(response.video.key), response.video.block_index), True)


class Head:
    """The gateway's side of the link to a pipeline's head."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.failures: list[tuple[Name, ServiceError]] = []
        """All that were told, in order."""
        self._opened: Board[list[str]] = Board()
        self._failed: Board[ServiceError] = Board()
        self._open: set[Name] = set()

    def respond(self, response: StreamBlocksResponse) -> None:
        if response.HasField("opened"):
            services = [reservation.service for reservation in response.opened.reservations]
            self._opened.pin(name_of(response.opened.key), services)
        elif response.HasField("session_failed"):
            failed = response.session_failed
            self.failures.append((name_of(failed.key), from_session_failed(failed)))
            self._failed.pin(*self.failures[-1])

    def link_ready(self, ready: bool) -> None: ...

    def link_down(self, error: ServiceError) -> None:
        for name in self._open:
            self._failed.pin(name, error)

    async def failure(self, name: Name) -> ServiceError:
        """Why a session has failed, once it has."""
        return await asyncio.shield(self._failed[name])

    def has_failed(self, name: Name) -> bool:
        """Whether it has."""
        return self._failed[name].done()

    async def open(self, request: StreamBlocksRequest.Open) -> Sequence[str]:
        """Opens a session; returns the services that reserved memory.

        Raises:
            ServiceError: why it could not be opened.
        """
        name = name_of(request.key)
        self._open.add(name)
        await self.link.send(StreamBlocksRequest(open=request))
        answers: list[asyncio.Future[Any]] = [self._opened[name], self._failed[name]]
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        if self._failed[name].done():
            raise self._failed[name].result()
        return self._opened[name].result()

    async def until_it_opens(self) -> None:
        """Returns once a session has come all the way; before that readiness may be news from an earlier end."""
        while True:
            await self.link.wait_ready(READY_S)
            name = new_session()
            try:
                await self.open(open_request(name, seed=0, width=64, height=64))
            except ServiceError as error:
                assert error.reason == "STAGE_LOST", error
                await asyncio.sleep(0.05)
                continue
            await self.close(name)
            return

    async def condition(self, name: Name, from_block: int, body: ConditioningBody) -> None:
        """Sends what holds for many blocks."""
        for request in conditioning_parts(key_of(name), from_block, body.SerializeToString()):
            await self.link.send(request)

    async def admit(self, name: Name, block: int) -> None:
        """Lets a block enter the pipeline."""
        message = StreamBlocksRequest.Block(key=key_of(name), index=block)
        await self.link.send(StreamBlocksRequest(block=message))

    async def close(self, name: Name) -> None:
        """Closes a session."""
        self._open.discard(name)
        await self.link.send(StreamBlocksRequest(close=StreamBlocksRequest.Close(key=key_of(name))))


def open_request(name: Name, *, seed: int, width: int, height: int, streaming: bool = False) -> _Open:
    """The first message of a session whose pictures come raw."""
    return _Open(
        key=key_of(name),
        seed=seed,
        width=width,
        height=height,
        listening=LISTENING_STREAMING if streaming else LISTENING_WHOLE_FILE,
        video=VideoProfile(encoding=VideoProfile.ENCODING_RAW_RGB24),
    )


@asynccontextmanager
async def linked(target: str, digest: str) -> AsyncIterator[Head]:
    """A head whose link is up and whose pipeline is ready."""
    head = Head(Link(target, peer="test", expected_model_digest=digest))
    running = asyncio.create_task(head.link.run(head))
    try:
        async with asyncio.timeout(READY_S):
            await head.until_it_opens()
        yield head
    finally:
        running.cancel()
        await asyncio.wait([running])


@asynccontextmanager
async def latent_end(port: int, preset: str, digest: str) -> AsyncIterator[LatentOutput]:
    """A chain's end on ``port`` that keeps latents."""
    output = LatentOutput()
    info = ServiceInfo(
        role=ServiceInfo.ROLE_VAE_DECODER, name="end", preset=preset, model_digest=digest, session_capacity=100
    )
    with ThreadPoolExecutor(1) as device:
        hop = HopServer(info, output, None, device)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        add_PipelineServiceServicer_to_server(hop, server)
        assert server.add_insecure_port(address(port)) == port
        running = asyncio.create_task(hop.run())
        await server.start()
        try:
            yield output
        finally:
            await server.stop(None)
            running.cancel()
            await asyncio.wait([running])


@asynccontextmanager
async def video_end(target: str) -> AsyncIterator[VideoOutput]:
    """The video stream of the decoder at ``target``."""
    output = VideoOutput(target)
    running = [asyncio.create_task(output.read()), asyncio.create_task(output.heartbeat_message())]
    try:
        yield output
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        await output.close()


async def describe(target: str) -> GetServiceInfoResponse:
    """What the service at ``target`` says of itself and those behind it."""
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        return await PipelineServiceStub(channel).GetServiceInfo(GetServiceInfoRequest(), timeout=20)
