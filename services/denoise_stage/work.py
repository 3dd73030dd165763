"""A stage's part in a session: it keeps the K/V of its steps, and makes every block a slice cleaner.

The only file of the service that computes; knows messages, but no streams.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc
import torch

from live_avatar import wire
from live_avatar.config import Preset
from live_avatar.memory import largest_size
from live_avatar.model.attention_patterns import Geometry
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.serving.conditioning import ConditioningJoiner
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.memory_budget import AdmittedSessions, MemoryBudget
from live_avatar.serving.priming import Priming
from live_avatar.streaming.block import Block, Conditioning, Sink
from live_avatar.streaming.denoiser import Denoiser, StageSession
from live_avatar.streaming.picture import latent_size


@dataclass
class _Session:
    """One session's K/V, and the conditioning that is still coming in."""

    stage: StageSession
    priming: Priming
    parts: ConditioningJoiner = field(default_factory=ConditioningJoiner)
    conditioned: bool = False


class DenoiseStageWork:
    """Work of one denoising stage."""

    def __init__(self, preset: Preset, denoiser: Denoiser, *, memory_budget: MemoryBudget) -> None:
        self._preset = preset
        self._denoiser = denoiser
        self._sessions: AdmittedSessions[_Session] = AdmittedSessions(memory_budget)

    @property
    def capacity(self) -> int:
        """Sessions of the largest picture that have room at the same time."""
        height, width = largest_size(self._preset)
        return self._sessions.memory_budget.sessions_of(self._denoiser.session_nbytes(self._geometry(width, height)))

    def open(self, request: StreamBlocksRequest.Open) -> int:
        """Allocates the windows of all steps for latents of the session's size."""
        geometry = self._geometry(request.width, request.height)
        nbytes = self._denoiser.session_nbytes(geometry)
        priming = Priming.of(request, self._preset.stream.window_blocks)

        def make() -> _Session:
            return _Session(self._denoiser.open(request.seed, geometry, priming.first_block), priming)

        try:
            self._sessions.open(request.key, nbytes, make)
        except torch.OutOfMemoryError as error:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "KV_MEMORY_EXHAUSTED", f"the device has no {nbytes} bytes left"
            ) from error
        return nbytes

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        """Refuses: audio ends at the audio encoder."""
        raise _failed(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_OUT_OF_ORDER", "a stage takes no audio")

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        """Keeps the conditioning once it is complete; its parts go on at once."""
        session = self._sessions.get(part.key)
        body = session.parts.add(part)
        if body is not None:
            conditioning = wire.conditioning_from_body(body, part.from_block)
            self._check(conditioning, session)
            self._denoiser.condition(session.stage, conditioning)
            session.conditioned = True
        return (StreamBlocksRequest(conditioning_part=part),)

    def block(self, block: StreamBlocksRequest.Block) -> Iterable[StreamBlocksRequest]:
        """Takes the block through this stage's steps; a finished one fills their windows and passes as it is."""
        session = self._sessions.get(block.key)
        if not session.conditioned:
            raise _failed(grpc.StatusCode.FAILED_PRECONDITION, "CONDITIONING_MISSING", "a block came before its sink")
        session.priming.check(block, session.stage.next_block)
        came = wire.block_from_message(block)
        self._check_block(came, session.stage.geometry)
        try:
            if block.prime:
                self._denoiser.prime(session.stage, came)
                return (StreamBlocksRequest(block=block),)
            cleaner = self._denoiser.denoise(session.stage, came)
        except ValueError as error:
            raise _failed(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_OUT_OF_ORDER", str(error)) from error
        assert cleaner.latent is not None, "a denoised block has a latent"
        return (wire.passed_on(block, cleaner.latent),)

    def close(self, key: SessionKey) -> int:
        """Frees the session's K/V."""
        return self._sessions.close(key)

    def _check_block(self, block: Block, geometry: Geometry) -> None:
        config, latents = self._preset.dit, self._preset.stream.latents_per_block
        shape = (config.latent_channels, latents, geometry.height, geometry.width)
        if block.latent is not None and block.latent.shape != shape:
            raise _malformed(f"the latent is {list(block.latent.shape)}, not {list(shape)}")
        if block.audio.local.shape[2:] != (latents, config.audio_tokens + 1, config.dim):
            raise _malformed(f"the audio tokens are {list(block.audio.local.shape)}")

    def _geometry(self, width: int, height: int) -> Geometry:
        try:
            latent_height, latent_width = latent_size(self._preset, width, height)
        except ValueError as error:
            raise _failed(grpc.StatusCode.INVALID_ARGUMENT, "SIZE_UNSUPPORTED", str(error)) from error
        return Geometry(config=self._preset.dit, height=latent_height, width=latent_width)

    def _check(self, conditioning: Conditioning, session: _Session) -> None:
        config = self._preset.dit
        text = conditioning.text
        if text is not None and (text.ndim != 2 or text.shape[1] != config.text_dim or len(text) > config.text_len):
            raise _malformed(f"text states are {list(text.shape)}, at most [{config.text_len}, {config.text_dim}]")
        if not session.conditioned and (conditioning.sink is None or text is None):
            raise _failed(
                grpc.StatusCode.FAILED_PRECONDITION, "CONDITIONING_MISSING", "the first conditioning lacks sink or text"
            )
        if conditioning.sink is not None:
            self._check_sink(conditioning.sink, session)

    def _check_sink(self, sink: Sink, session: _Session) -> None:
        geometry, config = session.stage.geometry, self._preset.dit
        size = (geometry.height, geometry.width)
        if sink.reference.shape != (config.latent_channels, 1, *size):
            raise _malformed(f"the sink's reference is {list(sink.reference.shape)}")
        if sink.motion is None:
            if config.use_motion and not session.conditioned:
                raise _malformed("the first sink lacks motion latents")
        elif not config.use_motion or sink.motion.shape != (config.latent_channels, sink.motion.shape[1], *size):
            raise _malformed(f"the sink's motion is {list(sink.motion.shape)}")


def _malformed(message: str) -> ServiceError:
    return _failed(grpc.StatusCode.INVALID_ARGUMENT, "TENSOR_MALFORMED", message)


def _failed(code: grpc.StatusCode, reason: str, message: str) -> ServiceError:
    return ServiceError(code, reason, message)
