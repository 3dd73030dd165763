"""The decoder's work equals the library's, its video reaches whoever subscribed, and nothing stays behind."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch

from live_avatar import wire
from live_avatar.config import TINY
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest, VideoProfile
from live_avatar.pipeline.v1.blocks_pb2 import Sink as SinkMessage
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.services.vae_decoder import subscribers, work
from live_avatar.services.vae_decoder.encoder_thread import EncoderThread
from live_avatar.services.vae_decoder.h264 import RawEncoder
from live_avatar.services.vae_decoder.subscribers import SubscriberRegistry, VideoStream
from live_avatar.services.vae_decoder.work import VaeDecoderWork
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import conditioning_parts
from live_avatar.streaming.block import Sink
from live_avatar.streaming.decoder import DecoderSession
from live_avatar.streaming.local import warmup_latents
from live_avatar.v1.avatar_service_pb2 import BlockTiming

from . import tiny
from .tiny import key, open_request

BLOCKS = 3
Video = StreamVideoResponse.Video


@cache
def sink() -> Sink:
    return tiny.frame_decoder().encode_portrait(tiny.portrait_pixels())


@cache
def latent(block: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(block)
    return torch.randn(16, TINY.stream.latents_per_block, 8, 8, generator=generator)


@cache
def expected() -> tuple[tuple[int, bytes], ...]:
    """Number and RGB of every picture."""
    decoder = tiny.frame_decoder()
    session = decoder.open()
    decoder.warm(session, warmup_latents(sink(), decoder))
    return tuple(
        (frames.first + n, picture.numpy().tobytes())
        for block in range(BLOCKS)
        for frames in decoder.decode(session, block, latent(block))
        for n, picture in enumerate(frames.pixels)
    )


class Place:
    """A decoder's work with its threads, and one gateway's stream."""

    def __init__(self, encoder: EncoderThread) -> None:
        self.subscribers = SubscriberRegistry()
        self.stream = VideoStream()
        self.work = VaeDecoderWork(
            TINY, tiny.frame_decoder(), memory_budget=tiny.MEMORY_BUDGET, encoder=encoder, subscribers=self.subscribers
        )

    async def received(self) -> list[StreamVideoResponse]:
        found = []
        while (response := await self.stream.next(0.05)) is not None:
            found.append(response)
        return found

    def start(
        self,
        name: str = "session",
        encoding: VideoProfile.Encoding.ValueType = VideoProfile.ENCODING_RAW_RGB24,
    ) -> None:
        self.work.open(open_request(name, video=encoding))
        self.subscribers.subscribe(key(name), self.stream)
        self.condition(name)

    def condition(self, name: str = "session") -> None:
        message = wire.sink_to_message(sink(), warmup_latents(sink(), tiny.frame_decoder()))
        body = ConditioningBody(sink=message).SerializeToString()
        for request in conditioning_parts(key(name), 0, body):
            assert not list(self.work.condition(request.conditioning_part))

    async def run(self, index: int, name: str = "session") -> BlockTiming:
        deliver = await asyncio.to_thread(self.work.block, block_request(index, name))
        timing = BlockTiming(service="vae-decoder")
        await deliver(timing)
        return timing


def block_request(index: int, name: str = "session") -> StreamBlocksRequest.Block:
    block = StreamBlocksRequest.Block(key=key(name), index=index, traceparent="trace", idle=True)
    block.latent.CopyFrom(wire.tensor_to_message(latent(index)))
    block.timings.add(service="before")
    return block


@contextmanager
def place() -> Iterator[Callable[[Callable[[Place], Awaitable[None]]], None]]:
    """Runs a coroutine function in an event loop with a decoder's work."""
    with EncoderThread() as encoder:

        def run(test: Callable[[Place], Awaitable[None]]) -> None:
            async def inside() -> None:
                await test(Place(encoder))

            asyncio.run(inside())

        yield run


def test_pictures_equal_the_library() -> None:
    async def test(at: Place) -> None:
        at.start()
        timings = [await at.run(index) for index in range(BLOCKS)]
        assert all(timing.encode_time.ToNanoseconds() > 0 for timing in timings)
        subscribed, new_sink, *videos = await at.received()
        assert subscribed.subscribed.key == key()
        own = wire.sink_from_message(SinkMessage.FromString(new_sink.new_sink.data))
        assert own.version == 1
        assert torch.equal(own.reference, latent(0)[:, :1])
        pictures = [(one.video.first_frame + n, frame) for one in videos for n, frame in enumerate(one.video.frames)]
        assert tuple(pictures) == expected()

    with place() as run:
        run(test)


def test_every_latent_leaves_on_its_own_and_the_last_says_so() -> None:
    async def test(at: Place) -> None:
        at.start(encoding=VideoProfile.ENCODING_H264_ANNEXB)
        for index in range(2):
            await at.run(index)
        videos = [one.video for one in await at.received() if one.HasField("video")]
        assert [(one.block_index, one.last) for one in videos] == [(b, n == 2) for b in range(2) for n in range(3)]
        assert [len(one.frames) for one in videos] == [1, 4, 4, 4, 4, 4]
        assert [one.first_frame for one in videos] == [0, 1, 5, 9, 13, 17]
        assert [[timing.service for timing in one.timings] for one in videos[:3]] == [[], [], ["before", "vae-decoder"]]
        assert all(one.traceparent == "trace" and one.idle for one in videos)

    with place() as run:
        run(test)


def test_large_pictures_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_MESSAGE_BYTES", 2 * tiny.SIDE**2 * 3)

    async def test(at: Place) -> None:
        at.start()
        await at.run(0)
        videos = [one.video for one in await at.received() if one.HasField("video")]
        assert [len(one.frames) for one in videos] == [1, 2, 2, 2, 2]
        assert [one.first_frame for one in videos] == [0, 1, 3, 5, 7]
        assert [one.last for one in videos] == [False] * 4 + [True]

    with place() as run:
        run(test)


def test_interleaved_sessions_equal_one_alone() -> None:
    async def test(at: Place) -> None:
        at.start("a")
        at.start("b")
        for index in range(BLOCKS):
            await at.run(index, "a")
            await at.run(index, "b")
        responses = [one.video for one in await at.received() if one.HasField("video")]
        for name in ("a", "b"):
            frames = [frame for one in responses if one.key == key(name) for frame in one.frames]
            assert frames == [rgb for _, rgb in expected()]

    with place() as run:
        run(test)


def test_close_frees_everything() -> None:
    async def test(at: Place) -> None:
        at.start()
        await at.run(0)
        session = at.work._sessions.get(key())
        assert isinstance(session.encoder, RawEncoder)
        kept: list[weakref.ref[DecoderSession] | weakref.ref[RawEncoder]] = [
            weakref.ref(session.decoding),
            weakref.ref(session.encoder),
        ]
        held = session.decoding.cache.nbytes
        del session
        assert at.work.close(key()) > held > 0
        assert at.work.close(key()) == 0
        await asyncio.sleep(0)
        gc.collect()
        assert [ref() for ref in kept] == [None, None]
        assert len(at.subscribers) == 0
        assert not at.stream.keys

    with place() as run:
        run(test)


def test_blocks_that_cannot_be_decoded() -> None:
    async def test(at: Place) -> None:
        with pytest.raises(ServiceError, match="SESSION_NOT_FOUND"):
            at.work.block(block_request(0))
        at.work.open(open_request())
        with pytest.raises(ServiceError, match="CONDITIONING_MISSING"):
            at.work.block(block_request(0))
        at.condition()
        with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
            at.work.block(block_request(1))
        short = block_request(0)
        short.latent.CopyFrom(wire.tensor_to_message(latent(0)[:, :2]))
        with pytest.raises(ServiceError, match="TENSOR_MALFORMED"):
            at.work.block(short)
        with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
            at.work.audio(StreamBlocksRequest.Audio(key=key()))

    with place() as run:
        run(test)


def test_sessions_that_cannot_be_opened() -> None:
    async def test(at: Place) -> None:
        with pytest.raises(ServiceError, match="SIZE_UNSUPPORTED"):
            at.work.open(open_request(width=72))
        with pytest.raises(ServiceError, match="VIDEO_FORMAT_UNSUPPORTED"):
            at.work.open(open_request(video=VideoProfile.ENCODING_UNSPECIFIED))
        assert at.work.close(key()) == 0

    with place() as run:
        run(test)


@pytest.mark.parametrize("warmup", [None, (16, 7, 8, 9), (16, 0, 8, 8)])
def test_bad_warmup(warmup: tuple[int, ...] | None) -> None:
    async def test(at: Place) -> None:
        at.work.open(open_request())
        latents = None if warmup is None else torch.zeros(warmup)
        message = wire.sink_to_message(replace(sink(), motion=None), latents)
        (request,) = conditioning_parts(key(), 0, ConditioningBody(sink=message).SerializeToString())
        with pytest.raises(ServiceError, match="TENSOR_MALFORMED"):
            at.work.condition(request.conditioning_part)

    with place() as run:
        run(test)


def test_video_that_nobody_claims() -> None:
    async def test(at: Place) -> None:
        at.work.open(open_request())
        at.condition()
        with pytest.raises(ServiceError, match="VIDEO_UNCLAIMED"):
            await at.run(0)

    with place() as run:
        run(test)


def test_a_gateway_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribers, "MAX_WAITING", 7)

    async def test(at: Place) -> None:
        at.start("slow")
        await at.run(0, "slow")
        await at.run(1, "slow")
        with pytest.raises(ServiceError, match="SLOW_CONSUMER"):
            await at.run(2, "slow")
        assert len(await at.received()) == 1 + 7
        at.start("other")
        await at.run(0, "other")
        assert len(await at.received()) == 1 + 4

    with place() as run:
        run(test)


def test_a_gateway_that_asks_and_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribers, "MAX_UNREAD", 3)

    async def test(at: Place) -> None:
        for _ in range(3):
            at.subscribers.subscribe(key(), at.stream)
        with pytest.raises(ServiceError, match="SLOW_CONSUMER"):
            at.subscribers.subscribe(key(), at.stream)
        assert len(await at.received()) == 3
        at.subscribers.subscribe(key(), at.stream)

    with place() as run:
        run(test)


def test_the_latest_subscriber_receives() -> None:
    async def test(at: Place) -> None:
        at.start()
        later = VideoStream()
        at.subscribers.subscribe(key(), later)
        await at.run(0)
        assert len(await at.received()) == 1
        assert later.outbox.qsize() == 1 + 4
        assert at.subscribers.unsubscribe_stream(at.stream) == []
        assert at.subscribers.unsubscribe_stream(later) == [key()]

    with place() as run:
        run(test)


def test_finished_blocks_come_back_to_those_who_ask_before_the_end_of_their_video() -> None:
    async def scenario(at: Place) -> None:
        for name, asks in (("asks", True), ("does not", False)):
            at.work.open(open_request(name))
            at.subscribers.subscribe(key(name), at.stream, finished_blocks=asks)
            at.condition(name)
            await at.run(0, name)
            kinds = [response.WhichOneof("payload") for response in await at.received()]
            assert kinds.count("finished_block") == asks
            if asks:
                last = len(kinds) - 1 - kinds[::-1].index("video")
                assert kinds.index("finished_block") < last

    with place() as run:
        run(scenario)
