"""The decoder's part in a session: clean latents to pictures, and those to the gateway's video.

The only file of the service that computes; knows messages, but no streams.
"""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import grpc
import torch
from torch import Tensor

from live_avatar import wire
from live_avatar.config import Preset
from live_avatar.memory import largest_size
from live_avatar.model.components import DTYPES
from live_avatar.model.vae import decoder_cache_nbytes
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.services.vae_decoder.encoder_thread import Encoded, EncoderThread
from live_avatar.services.vae_decoder.h264 import Pixels, VideoEncoder, open_encoder
from live_avatar.services.vae_decoder.label import SessionLabel
from live_avatar.services.vae_decoder.marking import SessionMarks
from live_avatar.services.vae_decoder.settings import LabelSettings, WatermarkSettings
from live_avatar.services.vae_decoder.subscribers import SubscriberRegistry
from live_avatar.serving.conditioning import ConditioningJoiner
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.memory_budget import AdmittedSessions, MemoryBudget
from live_avatar.serving.priming import Priming, finished_block
from live_avatar.serving.work import Completion
from live_avatar.streaming.block import Sink
from live_avatar.streaming.decoder import DecoderSession, FrameDecoder, Frames
from live_avatar.streaming.picture import latent_size
from live_avatar.streaming.sinks import SinkSchedule
from live_avatar.v1.avatar_service_pb2 import BlockTiming
from live_avatar.watermark.embedding import Marker

MAX_MESSAGE_BYTES = 1 << 20
"""Encoded pictures in one message, one picture apart."""
NO_MARK, NO_LABEL = WatermarkSettings(), LabelSettings()
_ENCODER_BYTES, _ENCODER_PICTURES = 1 << 20, 12
"""What an encoder holds, the second in pictures in YUV: measured 1.1 MB at 64x64 and 5.4 MB at 704x384."""


@dataclass
class _Session:
    """One session's caches, its encoder, and the conditioning that is still coming in."""

    shape: tuple[int, ...]
    """Of a block's latents [16, F, h, w]."""
    decoding: DecoderSession
    encoder: VideoEncoder
    marker: Marker | None
    label: SessionLabel | None
    priming: Priming
    parts: ConditioningJoiner = field(default_factory=ConditioningJoiner)
    sink_version: int | None = None


@dataclass(frozen=True)
class _Piece:
    """Pictures of one latent, on their way through the encoder."""

    first: int
    encoded: Future[Encoded]


class VaeDecoderWork:
    """Work of the decoder."""

    def __init__(
        self,
        preset: Preset,
        decoder: FrameDecoder,
        *,
        memory_budget: MemoryBudget,
        encoder: EncoderThread,
        subscribers: SubscriberRegistry,
        watermark: WatermarkSettings = NO_MARK,
        label: LabelSettings = NO_LABEL,
    ) -> None:
        self._preset = preset
        self._decoder = decoder
        self._sinks = SinkSchedule(preset.stream)
        self._encoder = encoder
        self._subscribers = subscribers
        self._label = label
        self._marks = SessionMarks(watermark, preset, self._device)
        self._sessions: AdmittedSessions[_Session] = AdmittedSessions(memory_budget)
        self._bytes_per_latent_pixel = decoder_cache_nbytes(preset.vae, 1, 1, DTYPES[preset.vae_dtype])

    @property
    def capacity(self) -> int:
        """Sessions of the largest picture that have room at the same time."""
        height, width = largest_size(self._preset)
        return self._sessions.memory_budget.sessions_of(self.session_nbytes(width, height))

    def open(self, request: StreamBlocksRequest.Open) -> int:
        """Reserves the decoder's caches and opens an encoder."""
        try:
            height, width = latent_size(self._preset, request.width, request.height)
        except ValueError as error:
            raise _invalid("SIZE_UNSUPPORTED", str(error)) from error
        nbytes = self.session_nbytes(request.width, request.height)
        shape = (self._preset.vae.latent_channels, self._preset.stream.latents_per_block, height, width)
        self._sessions.open(request.key, nbytes, lambda: self._session(request, shape))
        return nbytes

    def session_nbytes(self, width: int, height: int) -> int:
        """Bytes reserved for a session with pictures of ``width`` x ``height``."""
        pixels = width * height
        caches = self._bytes_per_latent_pixel * pixels // self._preset.vae.spatial_factor**2
        return caches + _ENCODER_BYTES + _ENCODER_PICTURES * pixels * 3 // 2

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        """Refuses: audio ends at the audio encoder."""
        raise _invalid("MESSAGE_OUT_OF_ORDER", "the decoder takes no audio")

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        """Warms the caches with the past that the first sink brings; nothing follows the decoder."""
        session = self._sessions.get(part.key)
        body = session.parts.add(part)
        if body is None or not body.HasField("sink") or session.sink_version is not None:
            return ()
        warmup = wire.warmup_from_message(body.sink)
        channels, _, *size = session.shape
        if warmup is None or warmup.shape != (channels, warmup.shape[1], *size) or not warmup.shape[1]:
            raise _invalid("TENSOR_MALFORMED", f"the first sink has no past latents of {size} to warm the decoder with")
        self._decoder.warm(session.decoding, warmup.to(self._device))
        session.sink_version = body.sink.version
        return ()

    def block(self, block: StreamBlocksRequest.Block) -> Completion:
        """Decodes the block; what is encoded of it leaves early, its last pictures by the delivery.

        A finished block refills the caches alone.
        """
        session = self._sessions.get(block.key)
        if session.sink_version is None:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION, "CONDITIONING_MISSING", "a block came before its sink"
            )
        session.priming.check(block, session.decoding.next_block)
        latent = wire.tensor_from_message(block.latent, "latent", session.shape)
        if block.prime:
            self._decoder.prime(session.decoding, block.index, latent.to(self._device))
            return _nothing
        if self._subscribers.wants_finished_blocks(block.key):
            for piece in finished_block(block):
                self._subscribers.post(block.key, piece)
        own = self._sinks.own_latent(block.index, latent)
        if own is not None:
            self._send_sink(block.key, Sink(session.sink_version + 1, own, motion=None))
        pieces = list(self._pieces(block, session, latent.to(self._device)))
        return _Delivery(block, pieces, self._subscribers)

    def close(self, key: SessionKey) -> int:
        """Frees the session's caches and its encoder."""
        self._subscribers.unsubscribe_threadsafe(key)
        return self._sessions.close(key)

    @property
    def _device(self) -> torch.device:
        return self._decoder.vae.from_latents.weight.device

    def _session(self, request: StreamBlocksRequest.Open, shape: tuple[int, ...]) -> _Session:
        try:
            encoder = open_encoder(request.video, request.width, request.height, self._preset)
        except ValueError as error:
            raise _invalid("VIDEO_FORMAT_UNSUPPORTED", str(error)) from error
        priming = Priming.of(request, self._preset.stream.window_blocks)
        first = priming.first_block
        marker, label = self._marks.open(request.key), self._open_label(first)
        return _Session(shape, self._decoder.open(first), encoder, marker, label, priming)

    def _open_label(self, first_block: int) -> SessionLabel | None:
        if not self._label.text:
            return None
        return SessionLabel(self._label, self._preset.stream.fps, first_block * self._preset.frames_per_block)

    def _send_sink(self, key: SessionKey, sink: Sink) -> None:
        data = wire.sink_to_message(sink).SerializeToString()
        self._subscribers.post(key, StreamVideoResponse(new_sink=StreamVideoResponse.NewSink(key=key, data=data)))

    def _pieces(self, block: StreamBlocksRequest.Block, session: _Session, latent: Tensor) -> Iterator[_Piece]:
        """Decodes latent by latent; all but the last piece are sent as soon as they are encoded."""
        previous: _Piece | None = None
        if session.label is not None:
            session.label.note_block(block.index * self._preset.frames_per_block, idle=block.idle)
        for frames in self._decoder.decode(session.decoding, block.index, latent):
            if previous is not None:
                self._send_early(block, previous)
            previous = self._encode(session, frames, starts_block=previous is None)
            yield previous

    def _encode(self, session: _Session, frames: Frames, *, starts_block: bool) -> _Piece:
        pixels = frames.pixels if session.label is None else session.label.draw(frames.pixels, frames.first)
        pixels = pixels if session.marker is None else session.marker.mark(pixels, frames.first)
        return _Piece(frames.first, self._encoder.submit(session.encoder, _rgb(pixels), starts_block=starts_block))

    def _send_early(self, block: StreamBlocksRequest.Block, piece: _Piece) -> None:
        def send(encoded: Future[Encoded]) -> None:
            if encoded.cancelled() or encoded.exception() is not None:
                return  # the delivery waits for it too, and fails
            for video in _videos(block, piece.first, encoded.result().frames):
                self._subscribers.post(block.key, StreamVideoResponse(video=video))

        piece.encoded.add_done_callback(send)


class _Delivery:
    """Hands over the end of a block; a ``Completion``."""

    def __init__(self, block: StreamBlocksRequest.Block, pieces: list[_Piece], subscribers: SubscriberRegistry) -> None:
        self._block = block
        self._pieces = pieces
        self._subscribers = subscribers

    async def __call__(self, timing: BlockTiming) -> None:
        encoded = [await asyncio.wrap_future(piece.encoded) for piece in self._pieces]
        timing.encode_time.FromNanoseconds(sum(piece.elapsed_ns for piece in encoded))
        videos = _videos(self._block, self._pieces[-1].first, encoded[-1].frames)
        videos[-1].last = True
        videos[-1].timings.extend((*self._block.timings, timing))
        for video in videos:
            self._subscribers.deliver(self._block.key, StreamVideoResponse(video=video))


async def _nothing(timing: BlockTiming) -> None:
    """The delivery of a block that has no video."""


def _rgb(pixels: Tensor) -> Pixels:
    rgb: Pixels = pixels.contiguous().cpu().numpy()
    return rgb


def _videos(block: StreamBlocksRequest.Block, first: int, frames: list[bytes]) -> list[StreamVideoResponse.Video]:
    """Messages of at most ``MAX_MESSAGE_BYTES``, or one picture, with ``frames`` from number ``first`` on."""
    groups: list[list[bytes]] = [[]]
    for frame in frames:
        if groups[-1] and sum(map(len, groups[-1])) + len(frame) > MAX_MESSAGE_BYTES:
            groups.append([])
        groups[-1].append(frame)
    videos = []
    for group in groups:
        videos.append(
            StreamVideoResponse.Video(
                key=block.key,
                block_index=block.index,
                first_frame=first,
                frames=group,
                traceparent=block.traceparent,
                idle=block.idle,
            )
        )
        first += len(group)
    return videos


def _invalid(reason: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message)
