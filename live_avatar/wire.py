"""Tensors and the nouns of the pipeline to messages and back; the only place that knows both.

Whatever comes off the wire is checked before anything is allocated for it; a message that lies about itself raises
``ServiceError`` INVALID_ARGUMENT/TENSOR_MALFORMED with the field at fault.  This file does not know streams, sessions
or what the tensors mean; the meaning of a geometry is checked by whoever opened the session.

Letters: A speakers, F latents of a block, N tokens, C channels, S tokens per latent, h and w latent pixels, L rows.
"""

import math
import sys

import grpc
import torch
from torch import Tensor

from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.pipeline.v1 import blocks_pb2, tensor_pb2
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.audio_window import SpeechStatistics
from live_avatar.streaming.block import Block, Conditioning, Sink

Shape = tuple[int | None, ...]
"""A shape to expect; None: any size."""

_MAX_DIMS = 8
_MAX_ELEMENTS = 2**31
_FROM_WIRE = {
    tensor_pb2.Tensor.DATA_TYPE_F32: torch.float32,
    tensor_pb2.Tensor.DATA_TYPE_F16: torch.float16,
    tensor_pb2.Tensor.DATA_TYPE_BF16: torch.bfloat16,
    tensor_pb2.Tensor.DATA_TYPE_F8_E4M3: torch.float8_e4m3fn,
    tensor_pb2.Tensor.DATA_TYPE_U8: torch.uint8,
    tensor_pb2.Tensor.DATA_TYPE_I64: torch.int64,
}
_TO_WIRE = {dtype: name for name, dtype in _FROM_WIRE.items()}


def tensor_to_message(tensor: Tensor) -> tensor_pb2.Tensor:
    """``tensor`` of any layout and device as a message, bit for bit.

    Raises:
        ValueError: a dtype the wire has no name for.
    """
    message = tensor_pb2.Tensor()
    _fill(message, tensor)
    return message


def tensor_from_message(message: tensor_pb2.Tensor, field: str, shape: Shape | None = None) -> Tensor:
    """A new tensor on the CPU from ``message``.

    Args:
        message: anything that a stranger could have sent.
        field: its name in errors.
        shape: what the receiver expects; None: anything.

    Raises:
        ServiceError: unknown dtype, more than 8 dimensions, a negative or huge one, bytes that do not fill the shape,
            or not the expected shape.  Nothing was allocated.
    """
    dtype = _FROM_WIRE.get(message.dtype)
    if dtype is None:
        raise _malformed(field, f"data type {message.dtype} is unknown")
    if len(message.shape) > _MAX_DIMS:
        raise _malformed(field, f"{len(message.shape)} dimensions, at most {_MAX_DIMS} are allowed")
    sizes = tuple(message.shape)
    # Zero counts as one here: an empty tensor may not hide a huge dimension either.
    if any(size < 0 for size in sizes) or math.prod(max(size, 1) for size in sizes) >= _MAX_ELEMENTS:
        raise _malformed(field, f"shape {list(sizes)} is out of range")
    needed = math.prod(sizes) * dtype.itemsize
    data = message.data  # every look at the field copies it
    if len(data) != needed:
        raise _malformed(field, f"{len(data)} bytes, but {list(sizes)} of {dtype} has {needed}")
    if shape is not None:
        _expect(field, sizes, shape)
    if needed == 0:
        return torch.empty(sizes, dtype=dtype)
    # A copy: the bytes of a message are read-only, and the tensor must outlive it.
    return torch.frombuffer(bytearray(data), dtype=dtype).view(sizes)


def audio_to_message(audio: AudioTokens) -> blocks_pb2.AudioTokens:
    """Audio tokens of one block; the library's batch dimension of 1 stays behind.

    Raises:
        ValueError: a batch of another size.
    """
    if audio.local.shape[0] != 1:
        raise ValueError(f"a block holds one batch entry, not {audio.local.shape[0]}")
    message = blocks_pb2.AudioTokens(local=tensor_to_message(audio.local[0]))
    getattr(message, "global").CopyFrom(tensor_to_message(audio.glob[0]))
    if audio.mask is not None:
        message.mask.CopyFrom(tensor_to_message(audio.mask[0]))
    return message


def audio_from_message(message: blocks_pb2.AudioTokens) -> AudioTokens:
    """Audio tokens with a batch dimension of 1; its tensors agree on speakers, latents and channels.

    Raises:
        ServiceError: malformed, see ``tensor_from_message``.
    """
    local = tensor_from_message(message.local, "audio.local", (None, None, None, None))
    speakers, latents, _, channels = local.shape
    glob = tensor_from_message(getattr(message, "global"), "audio.global", (speakers, latents, channels))
    mask = None
    if message.HasField("mask"):
        mask = tensor_from_message(message.mask, "audio.mask", (speakers, latents, None))[None]
    return AudioTokens(local=local[None], glob=glob[None], mask=mask)


def statistics_to_message(statistics: SpeechStatistics) -> blocks_pb2.SpeechStatistics:
    """What a window of streamed audio has learnt."""
    return blocks_pb2.SpeechStatistics(
        count=statistics.count, total=statistics.total, total_of_squares=statistics.total_of_squares
    )


def statistics_from_message(message: blocks_pb2.SpeechStatistics) -> SpeechStatistics:
    """What a window of streamed audio had learnt.

    Raises:
        ServiceError: INVALID_ARGUMENT/TENSOR_MALFORMED where no audio can have such sums.
    """
    sums = (message.total, message.total_of_squares)
    if not all(map(math.isfinite, sums)) or message.total_of_squares < 0:
        raise _malformed("audio.statistics", f"sums of {message.count} samples are {sums}")
    return SpeechStatistics(message.count, *sums)


def sink_to_message(sink: Sink, warmup: Tensor | None = None) -> blocks_pb2.Sink:
    """``sink`` and, for version 0, the past latents [16, n, h, w] that warm the decoder."""
    message = blocks_pb2.Sink(version=sink.version, reference=tensor_to_message(sink.reference))
    if sink.motion is not None:
        message.motion.CopyFrom(tensor_to_message(sink.motion))
    if warmup is not None:
        message.warmup.CopyFrom(tensor_to_message(warmup))
    return message


def sink_from_message(message: blocks_pb2.Sink) -> Sink:
    """The sink alone; what warms the decoder is read by ``warmup_from_message``.

    Raises:
        ServiceError: malformed, see ``tensor_from_message``.
    """
    reference = tensor_from_message(message.reference, "sink.reference", (None, 1, None, None))
    motion = None
    if message.HasField("motion"):
        channels, _, height, width = reference.shape
        motion = tensor_from_message(message.motion, "sink.motion", (channels, None, height, width))
    return Sink(version=message.version, reference=reference, motion=motion)


def warmup_from_message(message: blocks_pb2.Sink) -> Tensor | None:
    """Past latents [16, n, h, w] that warm the decoder, where the sink has them.

    Raises:
        ServiceError: malformed, see ``tensor_from_message``.
    """
    if not message.HasField("warmup"):
        return None
    return tensor_from_message(message.warmup, "sink.warmup", (None, None, None, None))


def conditioning_to_body(conditioning: Conditioning) -> blocks_pb2.ConditioningBody:
    """What holds for many blocks; its ``from_block`` travels in the parts around it."""
    body = blocks_pb2.ConditioningBody()
    if conditioning.sink is not None:
        body.sink.CopyFrom(sink_to_message(conditioning.sink))
    if conditioning.text is not None:
        body.text_states.CopyFrom(tensor_to_message(conditioning.text))
    return body


def conditioning_from_body(body: blocks_pb2.ConditioningBody, from_block: int) -> Conditioning:
    """The conditioning for a stage; absent parts are None, a prompt that no encoder has replaced is refused.

    Raises:
        ServiceError: malformed, see ``tensor_from_message``, or a prompt instead of its states.
    """
    if body.HasField("prompt"):
        message = "the prompt reached a stage as text; the audio encoder must replace it by its states"
        raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "CONDITIONING_MALFORMED", message, field="prompt")
    sink = sink_from_message(body.sink) if body.HasField("sink") else None
    text = None
    if body.HasField("text_states"):
        text = tensor_from_message(body.text_states, "text_states", (None, None))
    return Conditioning(from_block=from_block, sink=sink, text=text)


def block_to_message(block: Block, key: blocks_pb2.SessionKey) -> blocks_pb2.StreamBlocksRequest.Block:
    """``block`` of the session ``key``; budget, trace context and timings are the hop's to fill in."""
    message = blocks_pb2.StreamBlocksRequest.Block(key=key, index=block.index, audio=audio_to_message(block.audio))
    if block.latent is not None:
        _fill(message.latent, block.latent)
    return message


def passed_on(came: blocks_pb2.StreamBlocksRequest.Block, latent: Tensor) -> blocks_pb2.StreamBlocksRequest:
    """The request that carries the block that ``came`` on, with ``latent`` [16, F, h, w] in place of its own.

    Built where it lies: a message handed to the constructor of another is written out and read back, and its audio
    tokens need not become tensors to stay what they are.
    """
    request = blocks_pb2.StreamBlocksRequest()
    block = request.block
    block.key.CopyFrom(came.key)
    block.index = came.index
    block.audio.CopyFrom(came.audio)
    _fill(block.latent, latent)
    return request


def block_from_message(message: blocks_pb2.StreamBlocksRequest.Block) -> Block:
    """The block; its latent [16, F, h, w] has as many latents as its audio tokens, or is None before stage 0.

    Raises:
        ServiceError: malformed, see ``tensor_from_message``.
    """
    audio = audio_from_message(message.audio)
    latent = None
    if message.HasField("latent"):
        latent = tensor_from_message(message.latent, "latent", (None, audio.local.shape[2], None, None))
    return Block(index=message.index, audio=audio, latent=latent)


def _fill(message: tensor_pb2.Tensor, tensor: Tensor) -> None:
    """Writes ``tensor`` into an empty message; see ``tensor_to_message``."""
    if tensor.dtype not in _TO_WIRE:
        raise ValueError(f"no wire type for {tensor.dtype}")
    assert sys.byteorder == "little", "the wire is little-endian"
    message.dtype = _TO_WIRE[tensor.dtype]
    message.shape.extend(tensor.shape)
    # Bytes of any dtype by way of uint8: numpy has no bfloat16.
    message.data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _expect(field: str, sizes: tuple[int, ...], shape: Shape) -> None:
    fits = len(sizes) == len(shape) and all(want in (None, size) for size, want in zip(sizes, shape, strict=True))
    if not fits:
        wanted = ["any" if want is None else want for want in shape]
        raise _malformed(field, f"shape {list(sizes)} where {wanted} is due")


def _malformed(field: str, what: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "TENSOR_MALFORMED", f"{field}: {what}", field=field)
