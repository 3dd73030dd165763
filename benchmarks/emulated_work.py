"""The work of services that wait where real ones compute: their messages have the real sizes, their time is chosen.

Waiting takes no CPU, so a whole pipeline of them fits on two cores and shows what the machinery around the networks
costs.  Everything but the networks is real: messages become tensors and tensors messages as they do in the services,
and the video is encoded H.264, if always the same.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from live_avatar import wire
from live_avatar.config import MOTION_LATENTS, Preset
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.services.vae_decoder.h264 import H264Encoder, Pixels
from live_avatar.services.vae_decoder.subscribers import SubscriberRegistry
from live_avatar.serving.memory_budget import AdmittedSessions, MemoryBudget
from live_avatar.serving.work import Completion
from live_avatar.streaming.block import Sink
from live_avatar.streaming.picture import latent_size
from live_avatar.streaming.sinks import SinkSchedule
from live_avatar.v1.avatar_service_pb2 import BlockTiming

SESSIONS = 64
"""Most at the same time."""
_SESSION_BYTES = 1 << 20
_DTYPE = torch.bfloat16


def latent_shape(preset: Preset, width: int, height: int) -> tuple[int, int, int, int]:
    """Latents [16, F, h, w] of one block of pictures of ``width`` x ``height``; raises ValueError for a bad size."""
    return (preset.vae.latent_channels, preset.stream.latents_per_block, *latent_size(preset, width, height))


def first_sink(preset: Preset, width: int, height: int) -> bytes:
    """Sink version 0 as the decoder would send it for a portrait of that size, serialized."""
    channels, _, *size = latent_shape(preset, width, height)
    motion = torch.zeros(channels, MOTION_LATENTS, *size, dtype=_DTYPE) if preset.dit.use_motion else None
    reference = torch.zeros(channels, 1, *size, dtype=_DTYPE)
    warmup = torch.zeros(channels, preset.stream.warmup_latents, *size, dtype=_DTYPE)
    return wire.sink_to_message(Sink(version=0, reference=reference, motion=motion), warmup).SerializeToString()


class EmulatedWork:
    """What all emulated services have in common; a ``Work`` that passes conditioning on.

    Args:
        preset: whose sizes the messages have.
        wait_s: what a block takes.
    """

    def __init__(self, preset: Preset, wait_s: float) -> None:
        self._preset = preset
        self._wait_s = wait_s
        self._sessions: AdmittedSessions[StreamBlocksRequest.Open] = AdmittedSessions(
            MemoryBudget(SESSIONS * _SESSION_BYTES, SESSIONS)
        )

    def open(self, request: StreamBlocksRequest.Open) -> int:
        """Keeps the session's size."""
        self._sessions.open(request.key, _SESSION_BYTES, lambda: request)
        return _SESSION_BYTES

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        """Drops the audio."""
        return ()

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        """Passes it on."""
        return (StreamBlocksRequest(conditioning_part=part),)

    def close(self, key: SessionKey) -> int:
        """Forgets the session."""
        return self._sessions.close(key)

    def _wait(self) -> None:
        if self._wait_s > 0:
            time.sleep(self._wait_s)


class EmulatedEncoder(EmulatedWork):
    """Gives every block audio tokens of the real size."""

    def block(self, block: StreamBlocksRequest.Block) -> Iterable[StreamBlocksRequest]:
        """Waits, then passes the block on with its tokens."""
        self._wait()
        dit, latents = self._preset.dit, self._preset.stream.latents_per_block
        tokens = AudioTokens(
            local=torch.zeros(1, 1, latents, dit.audio_tokens + 1, dit.dim, dtype=_DTYPE),
            glob=torch.zeros(1, 1, latents, dit.dim, dtype=_DTYPE),
        )
        encoded = StreamBlocksRequest(block=block)
        encoded.block.audio.CopyFrom(wire.audio_to_message(tokens))
        return (encoded,)


class EmulatedStage(EmulatedWork):
    """Passes on latents of the real size."""

    def block(self, block: StreamBlocksRequest.Block) -> Iterable[StreamBlocksRequest]:
        """Waits, then passes the block on; the first stage makes up its latent."""
        came = wire.block_from_message(block)
        latent = came.latent
        if latent is None:
            opened = self._sessions.get(block.key)
            latent = torch.zeros(latent_shape(self._preset, opened.width, opened.height), dtype=_DTYPE)
        self._wait()
        return (wire.passed_on(block, latent),)


@dataclass(frozen=True)
class EmulatedVideo:
    """Encoded pictures of one block, to be sent again and again."""

    first: tuple[bytes, ...]
    """Of block 0, whose first frames are never shown."""
    other: tuple[bytes, ...]

    def of(self, block: int) -> tuple[bytes, ...]:
        """The pictures of ``block``."""
        return self.other if block else self.first


def emulated_video(preset: Preset, width: int, height: int) -> EmulatedVideo:
    """A moving gradient of ``width`` x ``height`` as the decoder would encode it."""
    encoder = H264Encoder(width, height, preset.stream.fps)
    pictures = moving_gradient(preset, width, height)
    shown = pictures[preset.stream.dropped_frames :]
    return EmulatedVideo(
        first=tuple(encoder.encode(shown, starts_block=True)), other=tuple(encoder.encode(pictures, starts_block=True))
    )


def moving_gradient(preset: Preset, width: int, height: int) -> Pixels:
    """Pictures of one block, [T, H, W, 3]."""
    down, across = np.indices((height, width))
    moving = range(preset.frames_per_block)
    pictures = np.stack([np.stack([across + 8 * shift, down, across + down], axis=-1) for shift in moving])
    return (pictures % 256).astype(np.uint8)


class EmulatedEnd(EmulatedWork):
    """Takes blocks of any size and hands nothing over: what remains is the hop."""

    def block(self, block: StreamBlocksRequest.Block) -> Completion:
        """Waits; the acknowledgement follows."""
        self._wait()

        async def nothing(timing: BlockTiming) -> None:
            pass

        return nothing


class EmulatedDecoder(EmulatedWork):
    """Hands over the same encoded pictures for every block, and a new sink with block 0."""

    def __init__(self, preset: Preset, wait_s: float, subscribers: SubscriberRegistry) -> None:
        super().__init__(preset, wait_s)
        self._subscribers = subscribers
        self._videos: dict[tuple[int, int], EmulatedVideo] = {}

    def open(self, request: StreamBlocksRequest.Open) -> int:
        """Keeps the session's size and encodes its pictures."""
        size = (request.width, request.height)
        if size not in self._videos:
            self._videos[size] = emulated_video(self._preset, *size)
        return super().open(request)

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        """Keeps it: nothing follows the decoder."""
        return ()

    def close(self, key: SessionKey) -> int:
        """Forgets the session and its gateway."""
        self._subscribers.unsubscribe_threadsafe(key)
        return super().close(key)

    def block(self, block: StreamBlocksRequest.Block) -> Completion:
        """Waits, then lets the pictures be handed over."""
        opened = self._sessions.get(block.key)
        shape = latent_shape(self._preset, opened.width, opened.height)
        latent = wire.tensor_from_message(block.latent, "latent", shape)
        own = SinkSchedule(self._preset.stream).own_latent(block.index, latent)
        if own is not None:
            data = wire.sink_to_message(Sink(version=1, reference=own, motion=None)).SerializeToString()
            sink = StreamVideoResponse.NewSink(key=block.key, data=data)
            self._subscribers.post(block.key, StreamVideoResponse(new_sink=sink))
        self._wait()
        frames = self._videos[opened.width, opened.height].of(block.index)

        async def complete(timing: BlockTiming) -> None:
            video = StreamVideoResponse.Video(
                key=block.key,
                block_index=block.index,
                first_frame=max(0, block.index * self._preset.frames_per_block - self._preset.stream.dropped_frames),
                frames=frames,
                traceparent=block.traceparent,
                idle=block.idle,
                timings=(*block.timings, timing),
                last=True,
            )
            self._subscribers.deliver(block.key, StreamVideoResponse(video=video))

        return complete
