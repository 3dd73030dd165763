"""The speech of one session: from the client's chunks to the audio for the model and the audio for the viewer.

Two clocks run side by side, the client's samples and the model's 16 kHz, tied together by exact fractions, so that
neither drifts.  Knows audio alone: not when a block may start, nor who asks.
"""

from collections import deque
from collections.abc import Iterable
from math import ceil

import grpc
import numpy as np
import numpy.typing as npt

from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.services.gateway.audio.sample_log import SILENCE, Layout, Run
from live_avatar.services.gateway.limits import SAMPLE_BYTES
from live_avatar.services.gateway.refusals import AUDIO_FORMAT_UNSUPPORTED, INVALID, MESSAGE_OUT_OF_ORDER
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.resample import Resampler
from live_avatar.v1.media_pb2 import AudioFormat

Samples = npt.NDArray[np.float32]
_S16_SCALE = 1 / 32_768
_SMALL_SAMPLES = 8_192


def join_small(pieces: "deque[Samples]", samples: Samples) -> None:
    """Appends ``samples`` [n] to pieces, small neighbours joined: pieces of one sample would take 40 times the room."""
    if not samples.size:
        return
    pieces.append(samples)
    while len(pieces) > 1 and pieces[-2].size <= 2 * pieces[-1].size and pieces[-1].size < _SMALL_SAMPLES:
        last = pieces.pop()
        pieces[-1] = np.concatenate((pieces[-1], last))


class SampleQueue:
    """Samples in the order they came, taken from the front."""

    def __init__(self) -> None:
        self._pieces: deque[Samples] = deque()
        self.layout = Layout()
        """Where they come from."""
        self.first = 0
        """Position of the first sample held."""
        self.end = 0
        """Position after the last."""

    def append(self, samples: Samples, origin: int | None = SILENCE) -> None:
        """Adds ``samples`` [n] at the end, which come from position ``origin`` of a log."""
        if samples.size:
            join_small(self._pieces, samples)
            self.layout.append(Run(origin, samples.size))
            self.end += samples.size

    def take(self, end: int) -> Samples:
        """The samples before position ``end``, as far as there are any; they are held no longer."""
        return self.take_runs(end)[0]

    def take_runs(self, end: int) -> tuple[Samples, list[Run]]:
        """As ``take``, with where the samples come from."""
        runs = self.layout.take(end - self.first)
        taken = []
        while self._pieces and self.first < end:
            piece = self._pieces.popleft()
            if self.first + piece.size > end:
                self._pieces.appendleft(piece[end - self.first :])
                piece = piece[: end - self.first]
            taken.append(piece)
            self.first += piece.size
        return np.concatenate(taken) if taken else np.empty(0, np.float32), runs

    def put_back(self, samples: Samples) -> None:
        """Puts ``samples`` [n], those that were taken last, in front again."""
        if samples.size:
            self._pieces.appendleft(samples)
            self.layout.put_back([Run(SILENCE, samples.size)])
            self.first -= samples.size

    def extend(self, samples: Samples, runs: Iterable[Run]) -> None:
        """Adds ``samples`` [n] at the end, which come from ``runs``."""
        for run in runs:
            self.append(samples[: run.count], run.origin)
            samples = samples[run.count :]

    def begin_at(self, first: int) -> None:
        """The first sample that is added has position ``first``; only while nothing was."""
        self.first = self.end = first

    def truncate(self, end: int) -> None:
        """Forgets the samples from position ``end`` on; where they were taken already, others take their positions."""
        kept, runs = self.take_runs(end) if self.first < end < self.end else (np.empty(0, np.float32), [])
        if end < self.end:
            self._pieces.clear()
            self.layout = Layout()
            self.begin_at(end - kept.size)
            self.extend(kept, runs)

    def insert_silence(self, at: int, samples: int) -> None:
        """Puts zeros before the sample at position ``at``, which is held or the next to come."""
        if not samples:
            return
        first, end = self.first, self.end
        before, after = self.take_runs(at), self.take_runs(end)
        self.begin_at(first)
        self.extend(*before)
        self.append(np.zeros(samples, np.float32))
        self.extend(*after)


class Speech:
    """The speech of one session, on the session's clock."""

    def __init__(self, form: AudioFormat, preset: Preset) -> None:
        self._encoding = form.encoding
        self.rate_hz = form.sample_rate_hz
        self._fps = preset.stream.fps
        self._frames_per_block = preset.frames_per_block
        self._lookahead_s = preset.stream.lookahead_s
        self._resampler = Resampler(self.rate_hz)
        self._utterance_samples = 0
        self._first_offset = 0
        """What the client calls the first sample of the running utterance."""
        self.audio_in = SampleQueue()
        """For the model, at its rate."""
        self.audio_out = SampleQueue()
        """For the viewer, at the client's rate."""
        self.end = 0
        """Client's samples up to the end of the last utterance's speech, without silence added after it."""
        self.finished = False

    def append(self, data: bytes, sample_offset: int) -> None:
        """Adds a checked chunk at ``sample_offset`` of the running utterance.

        Raises:
            ServiceError: INVALID_ARGUMENT; the chunk leaves a gap, goes back, or holds what is no number.
        """
        samples, audio_in = self._take(data, sample_offset)
        self.audio_out.append(samples)
        self.audio_in.append(audio_in)
        self.end = self.audio_out.end

    def end_utterance(self) -> None:
        """Completes the utterance and adds the silence that completes its last block."""
        if not self._utterance_samples:
            return
        self._utterance_samples = 0
        self.audio_in.append(self._resampler.finish())
        block_end = -(-self.blocks_spoken * self._frames_per_block * self.rate_hz // self._fps)
        audio_out_end = block_end + ceil(self._lookahead_s * self.rate_hz)
        self.audio_out.append(np.zeros(audio_out_end - self.audio_out.end, np.float32))
        block_end = audio_out_end * SAMPLE_RATE_HZ // self.rate_hz
        self.audio_in.append(np.zeros(max(0, block_end - self.audio_in.end), np.float32))

    def finish(self) -> None:
        """No more speech will come."""
        if self._utterance_samples:
            self._utterance_samples = 0
            self.audio_in.append(self._resampler.finish())
        self.finished = True

    @property
    def blocks_spoken(self) -> int:
        """Blocks that the speech so far reaches into."""
        return -(-self.end * self._fps // (self.rate_hz * self._frames_per_block))

    @property
    def frames_spoken(self) -> int:
        """Frame times that the speech so far reaches into."""
        return -(-self.end * self._fps // self.rate_hz)

    def cut(self, block: int) -> Samples:
        """What is played during ``block``, but nothing after the end of finished speech; earlier samples are gone."""
        end = (block + 1) * self._frames_per_block * self.rate_hz // self._fps
        return self.audio_out.take(min(end, self.end) if self.finished else end)

    def encode(self, samples: Samples) -> bytes:
        """Samples as the client sent them."""
        if self._encoding == AudioFormat.ENCODING_PCM_F32LE:
            return samples.astype("<f4").tobytes()
        return np.round(samples / _S16_SCALE).clip(-32_768, 32_767).astype("<i2").tobytes()

    def _take(self, data: bytes, sample_offset: int) -> tuple[Samples, Samples]:
        """A piece of the running utterance at the client's rate, and what it completes at the model's."""
        self._check_offset(sample_offset)
        samples = self._decode(data)
        self._utterance_samples += samples.size
        return samples, self._resampler.append(samples)

    def _check_offset(self, sample_offset: int) -> None:
        due = self._first_offset + self._utterance_samples
        if sample_offset != due:
            raise ServiceError(
                INVALID,
                MESSAGE_OUT_OF_ORDER,
                f"sample_offset is {sample_offset} where {due} was due",
                field="audio_chunk.sample_offset",
            )

    def _decode(self, data: bytes) -> Samples:
        return decoded(data, self._encoding)


def decoded(data: bytes, encoding: "AudioFormat.Encoding.ValueType") -> Samples:
    """The samples [n] of a checked chunk; raises ServiceError INVALID_ARGUMENT where one is no number."""
    assert len(data) % SAMPLE_BYTES[encoding] == 0, "the chunk was checked"
    if encoding == AudioFormat.ENCODING_PCM_S16LE:
        return np.frombuffer(data, "<i2").astype(np.float32) * np.float32(_S16_SCALE)
    samples = np.frombuffer(data, "<f4").astype(np.float32)
    if not np.isfinite(samples).all():
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            AUDIO_FORMAT_UNSUPPORTED,
            "the chunk holds NaN or infinity",
            field="audio_chunk.data",
        )
    return samples.clip(-1, 1)
