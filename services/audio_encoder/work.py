"""The audio encoder's part in a session: it keeps the audio, and gives every block its tokens.

The only file of the service that computes; knows messages, but no streams.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc
import numpy as np
import torch
from transformers import Wav2Vec2Model

from live_avatar import wire
from live_avatar.config import Preset
from live_avatar.model.audio_tokens import AudioTokenEncoder, AudioTokens
from live_avatar.model.text import TextEncoder
from live_avatar.pipeline.v1.blocks_pb2 import AudioTokens as AudioTokensMessage
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.tensor_pb2 import Tensor
from live_avatar.services.audio_encoder.audio_features import AudioFeatures, OfflineFeatures, StreamingFeatures
from live_avatar.serving.conditioning import ConditioningJoiner
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.memory_budget import AdmittedSessions, MemoryBudget
from live_avatar.serving.parts import conditioning_parts
from live_avatar.serving.priming import Priming
from live_avatar.streaming.audio_window import SpeechStatistics
from live_avatar.v1.avatar_service_pb2 import LISTENING_STREAMING, LISTENING_WHOLE_FILE

_Open = StreamBlocksRequest.Open
_SAMPLE = np.dtype("<f4")
PROMPTS_KEPT = 16
"""Prompts whose states are kept; those of the 14B system take 4 MB at most."""


@dataclass
class _Session:
    """One session's audio, and where it stands."""

    audio_features: AudioFeatures
    priming: Priming
    parts: ConditioningJoiner = field(default_factory=ConditioningJoiner)
    samples: int = 0
    finished: bool = False
    next_block: int = field(init=False)

    def __post_init__(self) -> None:
        self.next_block = self.priming.first_block
        if self.priming.next_block:
            self.samples = self.audio_features.resume(self.priming.next_block)

    def rewind(self, sample: int) -> None:
        """Forgets the audio from ``sample`` on; raises ServiceError where a block has used it."""
        try:
            self.audio_features.rewind(sample)
        except ValueError as error:
            raise _out_of_order(str(error)) from error
        self.samples = sample


class AudioEncoderWork:
    """Work of the audio encoder."""

    def __init__(
        self,
        preset: Preset,
        speech: Wav2Vec2Model,
        tokens: AudioTokenEncoder,
        text: TextEncoder,
        *,
        memory_budget: MemoryBudget,
        max_whole_file_s: float,
    ) -> None:
        self._preset = preset
        self._speech = speech
        self._tokens = tokens
        self._text = text
        self._max_whole_file_s = max_whole_file_s
        self._sessions: AdmittedSessions[_Session] = AdmittedSessions(memory_budget)
        self._prompts: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def capacity(self) -> int:
        """Sessions that have room at the same time, the larger kind counted."""
        modes = (LISTENING_WHOLE_FILE, LISTENING_STREAMING)
        return self._sessions.memory_budget.sessions_of(
            max(self._audio_features(mode).reserved_bytes for mode in modes)
        )

    def open(self, request: StreamBlocksRequest.Open) -> int:
        """Reserves room for the most audio the session may hold."""
        audio_features = self._audio_features(request.listening)
        reserved_bytes, priming = audio_features.reserved_bytes, Priming.of(request, self._preset.stream.window_blocks)
        self._sessions.open(request.key, reserved_bytes, lambda: _Session(audio_features, priming))
        return reserved_bytes

    def audio(self, request: StreamBlocksRequest.Audio) -> Iterable[StreamBlocksRequest]:
        """Keeps the samples, in place of those that came for the same span; nothing is passed on."""
        session = self._sessions.get(request.key)
        if session.finished or request.sample_offset > session.samples:
            raise _out_of_order(
                f"audio at sample {request.sample_offset} came "
                + ("after the last" if session.finished else f"where sample {session.samples} was due")
            )
        samples = _samples(request.samples)
        if request.sample_offset < session.samples:
            session.rewind(request.sample_offset)
        session.audio_features.append(samples)
        session.samples += samples.size
        if request.last:
            session.finished = True
            session.audio_features.finish()
        return ()

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        """Replaces the prompt of a complete conditioning by its text states, and passes it on."""
        session = self._sessions.get(part.key)
        body = session.parts.add(part)
        if body is None:
            return ()
        if body.HasField("prompt"):
            body.text_states.CopyFrom(self._states(body.prompt))
            body.ClearField("prompt")
        return conditioning_parts(part.key, part.from_block, body.SerializeToString())

    @torch.inference_mode()
    def block(self, block: StreamBlocksRequest.Block) -> Iterable[StreamBlocksRequest]:
        """Gives the block its audio tokens; a finished one has them."""
        session = self._sessions.get(block.key)
        session.priming.check(block, session.next_block)
        passed_on = StreamBlocksRequest(block=block)
        if block.prime:
            _learn_from(session.audio_features, block)
        else:
            tokens = self._tokens(session.audio_features.features(block.index))
            passed_on.block.audio.CopyFrom(_message(tokens, session.audio_features.statistics))
        session.next_block += 1
        return (passed_on,)

    def close(self, key: SessionKey) -> int:
        """Forgets the session's audio."""
        return self._sessions.close(key)

    def _audio_features(self, mode: int) -> AudioFeatures:
        if mode == LISTENING_WHOLE_FILE:
            return OfflineFeatures(self._speech, self._preset, self._max_whole_file_s)
        if mode == LISTENING_STREAMING:
            return StreamingFeatures(self._speech, self._preset)
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT, "AUDIO_FORMAT_UNSUPPORTED", f"audio mode {mode} is not served"
        )

    def _states(self, prompt: str) -> Tensor:
        """The text states of ``prompt``; those of the last few prompts are kept."""
        states = self._prompts.get(prompt)
        if states is None:
            states = self._prompts[prompt] = self._encode(prompt)
        self._prompts.move_to_end(prompt)
        if len(self._prompts) > PROMPTS_KEPT:
            self._prompts.popitem(last=False)
        return states

    def _encode(self, prompt: str) -> Tensor:
        try:
            return wire.tensor_to_message(self._text.encode(prompt))
        except ValueError as error:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG", str(error), field="prompt"
            ) from error


def _message(tokens: AudioTokens, statistics: SpeechStatistics | None) -> AudioTokensMessage:
    message = wire.audio_to_message(tokens)
    if statistics is not None:
        message.statistics.CopyFrom(wire.statistics_to_message(statistics))
    return message


def _learn_from(audio_features: AudioFeatures, block: StreamBlocksRequest.Block) -> None:
    """Takes over what was learnt of the audio when the finished ``block`` was encoded."""
    message, statistics = block.audio, None
    if message.HasField("statistics"):
        statistics = wire.statistics_from_message(message.statistics)
    try:
        audio_features.learn_from(statistics)
    except ValueError as error:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT, "PRIMING_INVALID", str(error), field="audio.statistics"
        ) from error


def _samples(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    if len(data) % _SAMPLE.itemsize:
        raise _malformed(f"{len(data)} bytes are no whole number of float32 samples")
    samples = np.frombuffer(data, _SAMPLE)
    if not np.isfinite(samples).all():
        raise _malformed("a sample is not a finite number")
    return samples


def _malformed(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "AUDIO_MALFORMED", message, field="samples")


def _out_of_order(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_OUT_OF_ORDER", message)
