"""Plans the speech encoder's window for each block of an audio stream of unknown length (spec 4.3).

``AudioWindow`` keeps the books: it takes samples in chunks of any size and says, block by block, exactly which
normalised samples to feed and where in the answer each video frame lies (``BlockPlan``).  ``encode_block`` then runs
the encoder on one plan.  The plan of a block depends on samples up to the end of its look-ahead alone, never on how
they were cut into chunks.

A window is [left context | block | look-ahead | silence], always of the same length.  Time before the session is
silence too.  The silence at the end reaches as far as the encoder's positional convolution: it then meets encoded
silence, not a wall of zero features.  Measured against the whole recording (look-ahead 0.1 s, random weights) that
takes the error from 0.31 to 0.18 of the features' deviation, and silence instead of a shorter window at the start
takes that of block 0 from 0.62 to 0.30.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange

from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.model.speech import VARIANCE_EPS, hidden_states, hop_samples, receptive_samples
from live_avatar.streaming.audio_grid import state_position
from live_avatar.streaming.resample import Samples, checked_samples

if TYPE_CHECKING:
    from transformers import Wav2Vec2Model

MAX_PENDING_S = 10.0
"""Audio a window holds beyond the block it plans next; more is refused, not queued."""

SEGMENT_SAMPLES = SAMPLE_RATE_HZ // 100
"""Unit of the statistics: a segment counts as a whole or not at all."""
AUDIBLE_STD = 0.003
"""Segments quieter than this (-50 dB of full scale) do not count, so that a long silence first does not decide."""
LEARNING_S = 5.0
"""Audible time after which the statistics stay as they are."""
MIN_STD = 0.01
"""Least deviation divided by (-40 dB of full scale), so that the noise of a silent microphone stays small."""


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One forward of the speech encoder: what to feed and which hidden states to read."""

    block: int
    samples: Samples
    """Normalised samples [N]; N is the same for every block of a session."""
    lower: tuple[int, ...]
    """Per video frame, the hidden state at or before its time."""
    upper: tuple[int, ...]
    """Per video frame, the hidden state at or after its time."""
    weights: tuple[float, ...]
    """Per video frame, how far it lies from ``lower`` to ``upper``, 0 to 1."""


@dataclass(frozen=True)
class SpeechStatistics:
    """What a window has learnt of its stream: enough for another window to go on."""

    count: int
    """Samples of the audible segments."""
    total: float
    """Sum of them."""
    total_of_squares: float
    """Sum of their squares."""


class RunningStatistics:
    """Mean and standard deviation of the audible part of a stream, learnt from its first seconds and then kept.

    Sums are float64 over fixed segments in order, so they do not depend on how the stream was cut.
    """

    def __init__(self, known: SpeechStatistics | None = None) -> None:
        self._count = known.count if known else 0
        self._sum = known.total if known else 0.0
        self._sum_of_squares = known.total_of_squares if known else 0.0

    def snapshot(self) -> SpeechStatistics:
        """What has been learnt up to now."""
        return SpeechStatistics(self._count, self._sum, self._sum_of_squares)

    def add(self, segment: Samples) -> None:
        """Takes the next segment [``SEGMENT_SAMPLES``] into account if it is audible and learning goes on."""
        exact = segment.astype(np.float64)
        if self._count >= LEARNING_S * SAMPLE_RATE_HZ or float(exact.std()) < AUDIBLE_STD:
            return
        self._count += segment.size
        self._sum += float(exact.sum())
        self._sum_of_squares += float(np.square(exact).sum())

    def normalise(self, samples: Samples) -> Samples:
        """``samples`` minus the mean, over the deviation or ``MIN_STD``."""
        mean = self._sum / self._count if self._count else 0.0
        variance = self._sum_of_squares / self._count - mean**2 if self._count else 0.0
        deviation = max(sqrt(max(variance, 0.0) + VARIANCE_EPS), MIN_STD)
        return ((samples.astype(np.float64) - mean) / deviation).astype(np.float32)


class SampleRing:
    """The newest ``capacity`` samples of a stream, addressed by their absolute position; all others are silence."""

    def __init__(self, capacity: int, origin: int) -> None:
        self._data: npt.NDArray[np.float32] = np.zeros(capacity, np.float32)
        self._origin = origin
        self.end = origin

    @property
    def capacity(self) -> int:
        """Samples it holds."""
        return self._data.size

    def append(self, samples: Samples) -> None:
        """Stores ``samples`` [n], n at most the capacity, over the oldest."""
        assert samples.size <= self._data.size, f"{samples.size} samples do not fit into {self._data.size}"
        self._data[np.arange(self.end, self.end + samples.size) % self._data.size] = samples
        self.end += samples.size

    def read(self, first: int, last: int) -> Samples:
        """Samples ``first`` to ``last`` - 1; zeros before the stream and after its end."""
        assert first >= self.end - self._data.size or first < self._origin, f"sample {first} is forgotten"
        result = np.zeros(last - first, np.float32)
        start, stop = max(first, self._origin), min(last, self.end)
        if start < stop:
            result[start - first : stop - first] = self._data[np.arange(start, stop) % self._data.size]
        return result


class AudioWindow:
    """The audio of one session: chunks in, one ``BlockPlan`` per block out.

    Block b is ready once its own samples and ``lookahead_s`` more have arrived, or the stream has finished.  Look-ahead
    0 is allowed: the hidden state after the last frame of some blocks then covers 5 ms of silence at its end.
    """

    def __init__(self, preset: Preset, first_block: int = 0) -> None:
        stream, speech = preset.stream, preset.speech
        if preset.frames_per_block * SAMPLE_RATE_HZ % stream.fps:
            raise ValueError(f"fps={stream.fps}: {preset.frames_per_block} frames are no whole number of samples")
        self._fps = stream.fps
        self._frames = preset.frames_per_block
        self._block_samples = preset.samples_per_block
        self._lookahead = round(stream.lookahead_s * SAMPLE_RATE_HZ)
        self._hop = hop_samples(speech)
        self._left_states = round(stream.left_context_s * SAMPLE_RATE_HZ / self._hop)
        if self._left_states < 1 or self._lookahead < 0:
            raise ValueError(
                f"left_context_s={stream.left_context_s} must hold one hidden state, "
                f"lookahead_s={stream.lookahead_s} must not be negative"
            )
        visible_states = ceil((self._block_samples + self._lookahead) / self._hop)
        self._states = self._left_states + visible_states + speech.position_kernel // 2
        self._window_samples = (self._states - 1) * self._hop + receptive_samples(speech)
        self.reset(first_block)

    def reset(self, first_block: int = 0) -> None:
        """Starts anew: the next sample is the first of ``first_block``, with silence before it.

        Raises:
            ValueError: ``first_block`` is negative.
        """
        if first_block < 0:
            raise ValueError(f"first_block={first_block} is negative")
        origin = first_block * self._block_samples
        self._block = first_block
        self._statistics = RunningStatistics()
        self._counted = ceil(origin / SEGMENT_SAMPLES) * SEGMENT_SAMPLES
        self._finished = False
        pending = round(MAX_PENDING_S * SAMPLE_RATE_HZ)
        self._ring = SampleRing(self._window_samples + SEGMENT_SAMPLES + self._hop + pending, origin)

    def resume(self, block: int) -> int:
        """Goes on from ``block`` of a stream whose past another window had; returns the sample that comes next.

        That is the first of the block's left context.  ``learn_from`` must follow before the block is planned.
        """
        origin = max(0, (block * self._block_samples // self._hop - self._left_states) * self._hop)
        self._block = block
        learnt = block * self._block_samples + (self._lookahead if block else 0)
        self._counted = learnt // SEGMENT_SAMPLES * SEGMENT_SAMPLES
        self._ring = SampleRing(self._ring.capacity, origin)
        return origin

    def learn_from(self, statistics: SpeechStatistics) -> None:
        """Takes over what another window had learnt when it planned the block before the next one."""
        self._statistics = RunningStatistics(statistics)

    @property
    def statistics(self) -> SpeechStatistics:
        """What has been learnt of the stream when the last block was planned."""
        return self._statistics.snapshot()

    @property
    def window_samples(self) -> int:
        """Samples of every plan."""
        return self._window_samples

    @property
    def room(self) -> int:
        """Samples ``append`` takes before a block must be planned."""
        ahead = self._block_samples + self._lookahead + round(MAX_PENDING_S * SAMPLE_RATE_HZ)
        return self._block * self._block_samples + ahead - self._ring.end

    def append(self, samples: Samples) -> None:
        """Takes the next ``samples`` [n] at ``SAMPLE_RATE_HZ``, full scale 1; silence is zeros.

        Raises:
            ValueError: not one-dimensional finite float32, more than ``room``, or the stream has finished.  Nothing
                has changed then.
        """
        if self._finished:
            raise ValueError("the stream has finished and takes no more samples")
        if samples.size > self.room:
            raise ValueError(f"{samples.size} samples do not fit, there is room for {self.room}")
        self._ring.append(checked_samples(samples))

    def rewind(self, position: int) -> None:
        """Forgets the samples from ``position`` on, so that others come in their place.

        Blocks planned before used the discarded ones as their look-ahead, and the statistics keep them.

        Raises:
            ValueError: a planned block holds ``position``, it has not come yet, or the stream has finished.
        """
        first = self._block * self._block_samples
        if self._finished or not first <= position <= self._ring.end:
            raise ValueError(f"sample {position} is not among {first}..{self._ring.end} of a stream that goes on")
        self._ring.end = position

    def finish(self) -> None:
        """Ends the stream: the last block begun is filled with silence."""
        self._finished = True

    def ready(self) -> bool:
        """Whether the next block can be planned."""
        start = self._block * self._block_samples
        if self._finished:
            return start < self._ring.end
        return start + self._block_samples + self._lookahead <= self._ring.end

    def next_block(self) -> BlockPlan:
        """The plan of the next block.

        Raises:
            ValueError: not ``ready``.
        """
        if not self.ready():
            raise ValueError(f"block {self._block} is not ready, the stream stands at sample {self._ring.end}")
        start = self._block * self._block_samples
        visible_end = start + self._block_samples + self._lookahead
        self._learn(visible_end)
        first_state = start // self._hop - self._left_states
        samples = np.zeros(self._window_samples, np.float32)
        samples[: visible_end - first_state * self._hop] = self._ring.read(first_state * self._hop, visible_end)
        frames = range(self._block * self._frames, (self._block + 1) * self._frames)
        positions = [state_position(frame, self._fps, self._hop) - first_state for frame in frames]
        assert positions[0] >= 0 and positions[-1] <= self._states - 1, f"block {self._block} leaves its window"
        plan = BlockPlan(
            block=self._block,
            samples=self._statistics.normalise(samples),
            lower=tuple(floor(position) for position in positions),
            upper=tuple(ceil(position) for position in positions),
            weights=tuple(float(position % 1) for position in positions),
        )
        self._block += 1
        return plan

    def _learn(self, until: int) -> None:
        """Takes all whole segments before sample ``until`` into the statistics."""
        while self._counted + SEGMENT_SAMPLES <= until:
            self._statistics.add(self._ring.read(self._counted, self._counted + SEGMENT_SAMPLES))
            self._counted += SEGMENT_SAMPLES


@torch.no_grad()
def encode_block(model: Wav2Vec2Model, plan: BlockPlan) -> torch.Tensor:
    """Features of one block, [1, S, D, F]: S hidden states of D channels for each of F video frames."""
    states = hidden_states(model, torch.from_numpy(plan.samples)[None])[0]
    weights = torch.tensor(plan.weights, dtype=states.dtype, device=states.device)[:, None]
    features = torch.lerp(states[:, list(plan.lower)], states[:, list(plan.upper)], weights)
    return rearrange(features, "s f d -> 1 s d f")
