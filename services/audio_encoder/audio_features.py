"""Extracts the features of a session's audio with the speech encoder (wav2vec2), block by block.

``OfflineFeatures`` encodes the whole recording after its last sample; ``StreamingFeatures`` encodes audio as it
arrives, with a bounded look-ahead.  Neither knows messages, tokens or sessions.

Letters: N samples, S hidden states, D width, F video frames of a block.
"""

import math
from typing import Protocol

import grpc
import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2Model

from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.model.components import DTYPES
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.audio_grid import whole_file_features
from live_avatar.streaming.audio_window import AudioWindow, SpeechStatistics, encode_block
from live_avatar.streaming.resample import Samples

AUDIO_MISSING = "AUDIO_MISSING"
_FLOAT_BYTES = 4


class AudioFeatures(Protocol):
    """Audio features of one session."""

    @property
    def reserved_bytes(self) -> int:
        """The most this session will ever hold."""
        ...

    def resume(self, block: int) -> int:
        """Makes ``block`` the next one of a session that goes on; returns the sample that comes next."""
        ...

    def learn_from(self, statistics: SpeechStatistics | None) -> None:
        """Takes over what had been learnt of the audio when the block before the next one was encoded.

        Raises:
            ValueError: nothing is given where something must be.
        """
        ...

    @property
    def statistics(self) -> SpeechStatistics | None:
        """What has been learnt of the audio up to the last block; None where nothing is."""
        ...

    def append(self, samples: Samples) -> None:
        """Receives the next samples [N], finite float32.

        Raises:
            ServiceError: more than may come.
        """
        ...

    def rewind(self, sample: int) -> None:
        """Discards the audio from ``sample`` on, where no block has used it as its own.

        Raises:
            ValueError: a block has used it already.
        """
        ...

    def finish(self) -> None:
        """Ends the audio.

        Raises:
            ServiceError: the audio is too short to be encoded.
        """
        ...

    def features(self, block: int) -> Tensor:
        """Features [1, S, D, F] of ``block``, which is the one after the last.

        Raises:
            ServiceError: AUDIO_MISSING.
        """
        ...


class OfflineFeatures:
    """Encodes the recording once it is complete: attention spans all of it; blocks after its end get zeros."""

    def __init__(self, speech: Wav2Vec2Model, preset: Preset, max_seconds: float) -> None:
        self._speech = speech
        self._preset = preset
        self._max_samples = round(max_seconds * SAMPLE_RATE_HZ)
        self._pieces: list[Samples] = []
        self._samples = 0
        self._features: Tensor | None = None

    @property
    def reserved_bytes(self) -> int:
        """Samples until the end of the audio, then the features of all frames."""
        frames = math.ceil(self._max_samples / self._preset.samples_per_block) * self._preset.frames_per_block
        per_frame = self._preset.speech.states * self._preset.speech.hidden_size * DTYPES[self._preset.dtype].itemsize
        return self._max_samples * _FLOAT_BYTES + frames * per_frame

    def resume(self, block: int) -> int:
        """See ``AudioFeatures``; attention spans the whole recording, which comes again."""
        return 0

    def learn_from(self, statistics: SpeechStatistics | None) -> None:
        """See ``AudioFeatures``; nothing is needed."""

    @property
    def statistics(self) -> SpeechStatistics | None:
        """See ``AudioFeatures``."""
        return None

    def append(self, samples: Samples) -> None:
        """See ``AudioFeatures``."""
        if self._samples + samples.size > self._max_samples:
            seconds = self._max_samples / SAMPLE_RATE_HZ
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "AUDIO_TOO_LONG", f"a whole recording has at most {seconds:g} s"
            )
        self._samples += samples.size
        self._pieces.append(samples)

    def rewind(self, sample: int) -> None:
        """See ``AudioFeatures``; a recording stays as it is."""
        raise ValueError(f"sample {sample} of a recording came twice")

    def finish(self) -> None:
        """See ``AudioFeatures``."""
        waveform = torch.from_numpy(np.concatenate(self._pieces)) if self._pieces else torch.zeros(0)
        self._pieces = []
        try:
            self._features = whole_file_features(self._speech, waveform, self._preset)
        except ValueError as error:
            raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "AUDIO_TOO_SHORT", str(error)) from error

    def features(self, block: int) -> Tensor:
        """See ``AudioFeatures``."""
        if self._features is None:
            raise _missing(block, self._samples)
        frames = self._preset.frames_per_block
        features = self._features[..., block * frames : (block + 1) * frames]
        # Zeros after the end, and in a last block that ends before its first hidden state.
        return features if features.shape[-1] else torch.zeros_like(self._features[..., :frames])


class StreamingFeatures:
    """Encodes audio as it arrives, with a bounded look-ahead."""

    def __init__(self, speech: Wav2Vec2Model, preset: Preset) -> None:
        self._speech = speech
        self._window = AudioWindow(preset)
        self._samples = 0
        self._reserved = (self._window.window_samples + self._window.room) * _FLOAT_BYTES

    @property
    def reserved_bytes(self) -> int:
        """The ring of newest samples."""
        return self._reserved

    def resume(self, block: int) -> int:
        """See ``AudioFeatures``; the audio begins with the left context of ``block``."""
        self._samples = self._window.resume(block)
        return self._samples

    def learn_from(self, statistics: SpeechStatistics | None) -> None:
        """See ``AudioFeatures``."""
        if statistics is None:
            raise ValueError("a finished block of streamed audio came without its statistics")
        self._window.learn_from(statistics)

    @property
    def statistics(self) -> SpeechStatistics | None:
        """See ``AudioFeatures``."""
        return self._window.statistics

    def append(self, samples: Samples) -> None:
        """See ``AudioFeatures``."""
        if samples.size > self._window.room:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "AUDIO_TOO_FAST",
                f"{samples.size} samples came, there is room for {self._window.room} until a block is generated",
            )
        self._window.append(samples)
        self._samples += samples.size

    def rewind(self, sample: int) -> None:
        """See ``AudioFeatures``."""
        self._window.rewind(sample)
        self._samples = sample

    def finish(self) -> None:
        """See ``AudioFeatures``."""
        self._window.finish()

    def features(self, block: int) -> Tensor:
        """See ``AudioFeatures``."""
        if not self._window.ready():
            raise _missing(block, self._samples)
        return encode_block(self._speech, self._window.next_block())


def _missing(block: int, samples: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION, AUDIO_MISSING, f"block {block} came when {samples} samples had come"
    )
