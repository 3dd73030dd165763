"""A pipeline of three services that compute nothing, over real sockets: H.264 of a counter for any speech.

The picture of frame n of a session has one grey level, ``level(n)``; the level of block 0 is shifted by the seed, so
that sessions can be told apart.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import numpy as np
import numpy.typing as npt

from live_avatar.config import TINY
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, ServiceInfo, SessionKey, Sink, StreamBlocksRequest
from live_avatar.pipeline.v1.blocks_pb2_grpc import add_PipelineServiceServicer_to_server
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import (
    EncodePortraitRequest,
    EncodePortraitResponse,
    StreamVideoRequest,
    StreamVideoResponse,
)
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import (
    VaeDecoderServiceServicer,
    add_VaeDecoderServiceServicer_to_server,
)
from live_avatar.services.vae_decoder.h264 import VideoEncoder, open_encoder
from live_avatar.serving.conditioning import ConditioningJoiner
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.hop import HopServer
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.link import Link
from live_avatar.serving.parts import cut
from live_avatar.serving.priming import finished_block
from live_avatar.serving.timing import PROTOCOL_VERSION, HopTiming
from live_avatar.serving.upstream import Upstream
from live_avatar.serving.work import Completion, Work
from live_avatar.v1.avatar_service_pb2 import BlockTiming

SESSION_BYTES = 1_000
Name = tuple[str, int]
Context = grpc.aio.ServicerContext[StreamVideoRequest, StreamVideoResponse]


def level(frame: int, seed: int = 0) -> int:
    """Grey level of a frame, far enough from that of its neighbours to survive encoding."""
    return 40 + 37 * ((frame + seed) % 5)


class PassingWork:
    """Passes everything on; remembers what it holds and heard."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.sessions: dict[Name, StreamBlocksRequest.Open] = {}
        self.samples: dict[Name, bytearray] = {}
        self.sent: dict[str, bytes] = {}
        """Samples of the newest epoch of every session, also of those that are over."""
        self.next_samples: dict[Name, int] = {}
        """First sample of the block that comes next: what lies before is heard for good."""
        self.spoken: dict[tuple[str, int], bytes] = {}
        """Samples of every block that was made, by session id and block, as they were when it was."""
        self.primed: list[int] = []
        """Finished blocks that came back."""
        self.ended: set[Name] = set()
        self.bodies: list[tuple[int, ConditioningBody]] = []
        self.blocks_seen = 0
        self.before_block: Callable[[StreamBlocksRequest.Block], None] = lambda block: None
        self.before_audio: Callable[[StreamBlocksRequest.Audio], None] = lambda audio: None
        self._joiners: dict[Name, ConditioningJoiner] = {}
        self._first_samples: dict[Name, int] = {}

    def open(self, request: StreamBlocksRequest.Open) -> int:
        if len(self.sessions) >= self.capacity:
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "KV_MEMORY_EXHAUSTED", "full")
        self.sessions[_name(request.key)] = request
        self._joiners[_name(request.key)] = ConditioningJoiner()
        return SESSION_BYTES

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        self.before_audio(request)
        name, offset = _name(request.key), request.sample_offset
        received = self.samples.setdefault(name, bytearray())
        first = self._first_samples.setdefault(name, offset)
        assert not received or self.next_samples.get(name, 0) <= offset
        assert offset * 4 <= first * 4 + len(received)
        del received[(offset - first) * 4 :]
        received += request.samples
        self.sent[name[0]] = bytes(received)
        if request.last:
            self.ended.add(_name(request.key))
        return ()

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        body = self._joiners[_name(part.key)].add(part)
        if body is not None:
            self.bodies.append((part.from_block, body))
        return [StreamBlocksRequest(conditioning_part=part)]

    def block(self, block: StreamBlocksRequest.Block) -> Iterable[StreamBlocksRequest] | Completion:
        self.blocks_seen += 1
        self.before_block(block)
        self._check(block)
        name, first = _name(block.key), block.index * TINY.samples_per_block
        self.next_samples[name] = first + TINY.samples_per_block
        if name in self.samples and not block.prime:
            at = (first - self._first_samples[name]) * 4
            self.spoken[block.key.session_id, block.index] = bytes(
                self.samples[name][at:][: TINY.samples_per_block * 4]
            )
        return [StreamBlocksRequest(block=block)]

    def _check(self, block: StreamBlocksRequest.Block) -> None:
        """Only the first blocks are finished ones, as Open said."""
        request = self.sessions[_name(block.key)]
        end = request.first_block + request.primed_blocks
        assert request.first_block <= block.index
        assert block.prime == (block.index < end)
        if block.prime:
            self.primed.append(block.index)

    def close(self, key: SessionKey) -> int:
        self._first_samples.pop(_name(key), None)
        self._joiners.pop(_name(key), None)
        self.samples.pop(_name(key), None)
        self.next_samples.pop(_name(key), None)
        return SESSION_BYTES if self.sessions.pop(_name(key), None) is not None else 0

    def received(self, name: Name) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.frombuffer(bytes(self.samples[name]), "<f4")


class CountingDecoder(PassingWork, VaeDecoderServiceServicer):
    """Makes pictures of frame numbers; answers for portraits and video too."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.portraits: list[EncodePortraitRequest] = []
        self.sends_sink = True
        self.sink_bytes = 1_500_000
        self.portrait_error: ServiceError | None = None
        self.novelty: EncodePortraitResponse.Novelty | None = None
        """Of every portrait; None: the weights do not tell."""
        self.portrait_encoded = asyncio.Event()
        """No portrait is answered before it is set."""
        self.portrait_encoded.set()
        self._encoders: dict[Name, VideoEncoder] = {}
        self._outboxes: dict[Name, asyncio.Queue[StreamVideoResponse]] = {}
        self.keeps_finished = True
        self._keepers: set[Name] = set()
        """Sessions whose gateway receives finished blocks."""

    def open(self, request: StreamBlocksRequest.Open) -> int:
        reserved = super().open(request)
        self._encoders[_name(request.key)] = open_encoder(request.video, request.width, request.height, TINY)
        return reserved

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        super().condition(part)
        return ()

    def block(self, block: StreamBlocksRequest.Block) -> Completion:
        self.before_block(block)
        self._check(block)
        name, request = _name(block.key), self.sessions[_name(block.key)]
        if block.prime:
            return _nothing
        first = max(0, block.index * TINY.frames_per_block - TINY.stream.dropped_frames)
        levels = self.levels(block)
        pixels = np.broadcast_to(levels[:, None, None, None], (len(levels), request.height, request.width, 3))
        frames = self._encoders[name].encode(np.ascontiguousarray(pixels), starts_block=True)

        async def deliver(timing: BlockTiming) -> None:
            for piece in finished_block(block) if name in self._keepers else ():
                self._send(name, piece)
            if block.index == 0 and self.sends_sink:
                self._send(name, StreamVideoResponse(new_sink=_own_sink(block.key)))
            half = len(frames) // 2
            video = StreamVideoResponse.Video(key=block.key, block_index=block.index, first_frame=first)
            video.frames.extend(frames[:half])
            self._send(name, StreamVideoResponse(video=video))
            rest = StreamVideoResponse.Video(
                key=block.key, block_index=block.index, first_frame=first + half, frames=frames[half:], last=True
            )
            rest.timings.extend((*block.timings, timing))
            self._send(name, StreamVideoResponse(video=rest))

        return deliver

    def levels(self, block: StreamBlocksRequest.Block) -> npt.NDArray[np.uint8]:
        """Grey levels of the frames of a block."""
        first = max(0, block.index * TINY.frames_per_block - TINY.stream.dropped_frames)
        end = (block.index + 1) * TINY.frames_per_block - TINY.stream.dropped_frames
        seed = self.sessions[_name(block.key)].seed
        return np.array([level(frame, seed) for frame in range(first, end)], np.uint8)

    def close(self, key: SessionKey) -> int:
        self._encoders.pop(_name(key), None)
        return super().close(key)

    async def EncodePortrait(
        self, request: EncodePortraitRequest, context: "grpc.aio.ServicerContext[object, object]"
    ) -> AsyncIterator[EncodePortraitResponse]:
        self.portraits.append(request)
        await self.portrait_encoded.wait()
        if self.portrait_error is not None:
            raise self.portrait_error
        sink = Sink(version=0)
        sink.reference.data = bytes(self.sink_bytes)
        pieces = cut(sink.SerializeToString())
        for part, piece in enumerate(pieces):
            novelty = None if part else self.novelty
            yield EncodePortraitResponse(part=part, part_count=len(pieces), data=piece, novelty=novelty)

    async def StreamVideo(  # type: ignore[override]
        self, request_iterator: AsyncIterator[StreamVideoRequest], context: Context
    ) -> None:
        outbox: asyncio.Queue[StreamVideoResponse] = asyncio.Queue()

        async def write_all() -> None:
            while True:
                response = StreamVideoResponse(heartbeat=StreamVideoResponse.Heartbeat())
                with suppress(TimeoutError):
                    response = await asyncio.wait_for(outbox.get(), 0.5)
                await context.write(response)

        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(write_all())
            async for request in request_iterator:
                if request.HasField("subscribe"):
                    key = request.subscribe.key
                    self._outboxes[_name(key)] = outbox
                    keeps = request.subscribe.finished_blocks and self.keeps_finished
                    self._keepers |= {_name(key)} if keeps else set()
                    outbox.put_nowait(StreamVideoResponse(subscribed=StreamVideoResponse.Subscribed(key=key)))
            writer.cancel()

    def _send(self, name: Name, response: StreamVideoResponse) -> None:
        self._outboxes[name].put_nowait(response)


class OlderHop(HopServer):
    """A service of the protocol version before: it refuses the newest, and knows nothing of drains that it tells of."""

    def describe(self) -> ServiceInfo:
        info = super().describe()
        info.protocol_version = PROTOCOL_VERSION - 1
        return info

    @property
    def draining(self) -> bool:
        return False

    async def _handshake(self, upstream: Upstream) -> None:
        await super()._handshake(upstream)
        if upstream.version != PROTOCOL_VERSION - 1:
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VERSION", "an older one is served")


@dataclass
class FakePipeline:
    """Three services and where they listen."""

    encoder: PassingWork
    stage: PassingWork
    decoder: CountingDecoder
    head: str = ""
    tail: str = ""
    hops: list[HopServer] = field(default_factory=list)

    @property
    def works(self) -> list[PassingWork]:
        """All three, in order."""
        return [self.encoder, self.stage, self.decoder]

    @property
    def sessions_held(self) -> int:
        """Sessions reserved on any service."""
        return sum(len(work.sessions) for work in self.works)

    @property
    def address(self) -> str:
        """As the gateway's settings want it."""
        return f"{self.head}/{self.tail}"


@asynccontextmanager
async def fake_pipeline(
    capacity: int = 4,
    *,
    steps: tuple[int, ...] = (0, 1, 2, 3),
    timing: HopTiming | None = None,
    ports: tuple[int, int, int] = (0, 0, 0),
    encoder: PassingWork | None = None,
    decoder: CountingDecoder | None = None,
    older: bool = False,
) -> AsyncIterator[FakePipeline]:
    """A running pipeline; it ends all its sessions on exit.  ``older``: of the protocol version before."""
    pipeline = FakePipeline(
        encoder or PassingWork(capacity), PassingWork(capacity), decoder or CountingDecoder(capacity)
    )
    pipeline.decoder.keeps_finished = not older
    roles = (ServiceInfo.ROLE_AUDIO_ENCODER, ServiceInfo.ROLE_DENOISE_STAGE, ServiceInfo.ROLE_VAE_DECODER)
    names = ("audio-encoder", "denoise-stage-0", "vae-decoder")
    target: str | None = None
    async with AsyncExitStack() as stack:
        for index in (2, 1, 0):
            info = ServiceInfo(
                role=roles[index], name=names[index], preset=TINY.name, model_digest="digest",
                device=f"cpu:{names[index]}", session_capacity=capacity,
            )  # fmt: skip
            if index == 1:
                info.steps.extend(steps)
                info.step_count = 4
            work = pipeline.works[index]
            make = OlderHop if older else HopServer
            target = await _start(stack, pipeline, info, work, target, timing or HopTiming(), ports[index], make)
            if index == 2:
                pipeline.tail = target
        pipeline.head = target or ""
        yield pipeline


async def _start(
    stack: AsyncExitStack,
    pipeline: FakePipeline,
    info: ServiceInfo,
    work: Work,
    target: str | None,
    timing: HopTiming,
    port: int,
    make: type[HopServer],
) -> str:
    """Starts one service; returns its address."""
    device = stack.enter_context(ThreadPoolExecutor(1))
    link = Link(target, peer=info.name, timing=timing) if target else None
    hop = make(info, work, link, device, timing=timing, block_credits=4)
    pipeline.hops.insert(0, hop)
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=[("grpc.so_reuseport", 0)])
    add_PipelineServiceServicer_to_server(hop, server)
    if isinstance(work, CountingDecoder):
        add_VaeDecoderServiceServicer_to_server(work, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    running = asyncio.create_task(hop.run())

    async def stop() -> None:
        await server.stop(None)
        running.cancel()
        await asyncio.wait([running])

    stack.push_async_callback(stop)
    return f"127.0.0.1:{port}"


async def _nothing(timing: BlockTiming) -> None:
    """No video comes of a finished block."""


def _own_sink(key: SessionKey) -> StreamVideoResponse.NewSink:
    return StreamVideoResponse.NewSink(key=key, data=Sink(version=1).SerializeToString())


def _name(key: SessionKey) -> Name:
    return key.session_id, key.epoch
