"""The speech of a live session: utterances wait until they may begin, then lie on the session's clock.

The clock goes on without speech: where nobody speaks when a block is due, there is silence.  An utterance begins at
the first sample of a block that has not been admitted, or where the one before it ends; it begins once as much of it
has come as the jitter buffer wants.  Reads no clock and knows nothing of streams; times are nanoseconds and
``slack_ns`` is how long the block in question can still wait.
"""

from collections import deque
from dataclasses import dataclass, field

import grpc
import numpy as np

from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.gateway.v1 import recovery_point_pb2 as point
from live_avatar.services.gateway.audio.kept_sound import KeptSound
from live_avatar.services.gateway.audio.sample_log import Run, SampleLog
from live_avatar.services.gateway.audio.speech import Samples, Speech, join_small
from live_avatar.services.gateway.audio.stored_speech import (
    StoredLog,
    read_kept,
    read_queue,
    read_run,
    run_message,
    track_message,
)
from live_avatar.services.gateway.audio.utterances import Utterances
from live_avatar.services.gateway.limits import SAMPLE_BYTES
from live_avatar.services.gateway.refusals import INVALID, MESSAGE_OUT_OF_ORDER
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.pacing import NS_PER_S
from live_avatar.v1.media_pb2 import AudioFormat

PLAYED_S = 0.5
"""How much of what was played is kept: a sound encoder that goes on elsewhere needs the last of it."""
MAX_UTTERANCES = 256
"""Utterances of one session that may wait or be on their way, however short they are."""


@dataclass
class Waiting:
    """An utterance that has not begun."""

    name: str
    came_ns: int
    """When its first piece came."""
    first_out: int
    """Its first sample in the log at the client's rate."""
    first_in: int
    """In the log at the model's rate."""
    complete: bool = False
    audio_in: deque[Samples] = field(default_factory=deque)
    audio_out: deque[Samples] = field(default_factory=deque)
    audio_in_samples: int = 0
    audio_out_samples: int = 0

    def add(self, audio_out: Samples, audio_in: Samples) -> None:
        """Adds a piece, at the client's rate and at the model's."""
        join_small(self.audio_out, audio_out)
        self.audio_out_samples += audio_out.size
        join_small(self.audio_in, audio_in)
        self.audio_in_samples += audio_in.size

    def finish(self) -> None:
        """None of its speech follows."""
        self.complete = True


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a block holds."""

    idle: bool
    """No sample of the client's."""
    starved: bool
    """Silence stands where the rest of a running utterance should."""


class LiveSpeech(Speech):
    """See the module; reports to ``utterances`` where each one lies."""

    def __init__(self, form: AudioFormat, preset: Preset, utterances: Utterances, jitter_ms: int) -> None:
        super().__init__(form, preset)
        self._utterances = utterances
        self.log_out = SampleLog(SAMPLE_BYTES[form.encoding])
        """Speech that came and was not dropped on the way, at the client's rate."""
        self.log_in = SampleLog(SAMPLE_BYTES[AudioFormat.ENCODING_PCM_F32LE])
        """What the resampler made of it."""
        self._played = KeptSound()
        self._jitter = jitter_ms * SAMPLE_RATE_HZ // 1000
        self._block = preset.samples_per_block
        self._lookahead = round(preset.stream.lookahead_s * SAMPLE_RATE_HZ)
        self._waiting: deque[Waiting] = deque()
        self._open = False
        """An utterance has begun and is not complete."""
        self._coming = ""
        """Name of the utterance whose pieces come."""
        self._dropping = False
        """What comes belongs to an utterance that was interrupted."""
        self.dropped_samples = 0
        """Of the interrupted utterance, those that came since; 0 again with the next one."""

    @property
    def queued_samples(self) -> int:
        """Client's samples that are held."""
        waiting = sum(one.audio_out_samples for one in self._waiting)
        return self.audio_out.end - self.audio_out.first + waiting

    @property
    def all_begun(self) -> bool:
        """No utterance waits."""
        return not self._waiting

    @property
    def is_speaking(self) -> bool:
        """Some speech comes, waits, or is not over, and was not interrupted."""
        comes = self._utterance_samples > 0 and not self._dropping
        return comes or bool(self._waiting) or self._utterances.runs

    def knows(self, name: str) -> bool:
        """Whether utterance ``name`` is not over."""
        return self._utterances.knows(name) or any(one.name == name for one in self._waiting)

    def check_room(self, samples: int, most_s: int) -> None:
        """Raises ServiceError RESOURCE_EXHAUSTED where ``samples`` more would be over ``most_s`` seconds."""
        if self.queued_samples + samples > most_s * self.rate_hz:
            raise _queue_full(f"more than {most_s} s of speech wait to be spoken")

    def receive_audio(self, data: bytes, sample_offset: int, name: str, now_ns: int) -> None:
        """Takes a checked piece of the utterance that comes.

        Raises:
            ServiceError: INVALID_ARGUMENT where it leaves a gap, goes back, or holds what is no number,
                RESOURCE_EXHAUSTED where too many utterances wait.
        """
        if self._dropping and sample_offset and name in ("", self._coming):
            self._check_offset(sample_offset)
            dropped = self._decode(data).size
            self._utterance_samples += dropped
            self.dropped_samples += dropped
            return
        if self._dropping:
            self._discard_finished()
            self._first_offset = sample_offset
        begins = self._utterance_samples == 0
        if not begins and name not in ("", self._coming):
            message = f"utterance {name!r} came before the end of {self._coming!r}"
            raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, message, field="utterance_id")
        if begins and len(self._waiting) + len(self._utterances) >= MAX_UTTERANCES:
            raise _queue_full(f"{MAX_UTTERANCES} utterances wait to be spoken")
        samples, audio_in = self._take(data, sample_offset)
        if begins:
            self._coming = name
            self._waiting.append(Waiting(name, now_ns, self.log_out.end, self.log_in.end))
        origin_out, origin_in = self.log_out.append(data), self.log_in.append(audio_in.astype("<f4").tobytes())
        if self._open:
            self.audio_in.append(audio_in, origin_in)
            self.audio_out.append(samples, origin_out)
            self.end = self.audio_out.end
            self._utterances.extend(self.end)
            return
        self._waiting[-1].add(samples, audio_in)

    def end_utterance(self, name: str = "") -> None:
        """Completes the utterance that comes; nothing happens where none does, or where ``name`` is another's."""
        if name and self._coming not in ("", name):
            return
        if self._dropping:
            self._discard_finished()
        if not self._utterance_samples:
            return
        self._utterance_samples = self._first_offset = 0
        tail = self._resampler.finish()
        origin = self.log_in.append(tail.astype("<f4").tobytes())
        if self._open:
            self.audio_in.append(tail, origin)
            self._open = False
            self._utterances.end()
            return
        self._waiting[-1].add(np.empty(0, np.float32), tail)
        self._waiting[-1].finish()

    def finish(self) -> None:
        """No more speech will come."""
        self.end_utterance()
        self.finished = True

    def drop(self, block: int) -> list[str]:
        """Forgets all speech from ``block`` on, which has not been admitted, and what still comes of it.

        Returns the names of the utterances that end so, in their order.
        """
        unplaced = [one.name for one in self._waiting]
        self._waiting.clear()
        self._dropping = self._utterance_samples > 0
        self.dropped_samples = 0
        self._resampler.reset()
        self._open = False
        self.audio_in.truncate(block * self._block)
        self.audio_out.truncate(self.block_start(block))
        self.end = min(self.end, self.audio_out.end)
        return self._utterances.interrupt(self.block_start(block)) + unplaced

    def _discard_finished(self) -> None:
        """Nothing of the interrupted utterance comes any more."""
        self._dropping = False
        self._utterance_samples = self._first_offset = self.dropped_samples = 0

    def begin(self, block: int, slack_ns: int, now_ns: int) -> None:
        """Lets utterances begin that may, in ``block``, the next to be admitted."""
        while self._waiting and not self._open:
            first = max(self.audio_in.end, block * self._block)
            room = (block + 1) * self._block - first
            if room <= 0 or not self._may_begin(self._waiting[0], room, slack_ns, now_ns):
                return
            self._place(self._waiting.popleft())

    def spoken_in(self, block: int) -> bool:
        """Some speech of ``block`` is there."""
        return self.audio_in.end > block * self._block

    def complete_in(self, block: int) -> bool:
        """All speech of ``block`` is there, with the look-ahead where the utterance goes on."""
        end = (block + 1) * self._block
        return self.audio_in.end >= end + self._lookahead if self._open else self.spoken_in(block)

    def lacks_in(self, block: int) -> bool:
        """The utterance that runs goes on in ``block``, and not all of that is there."""
        return self._open and not self.complete_in(block)

    def fill(self, block: int) -> Filled:
        """Puts silence where ``block``, which is admitted now, holds no speech."""
        end = (block + 1) * self._block
        idle = not self.spoken_in(block)
        missing = end - self.audio_in.end
        filled = Filled(idle=idle, starved=self._open and missing > 0)
        if missing <= 0:
            return filled
        # The resampler holds back a little of a running utterance: its silence is put before that in both clocks.
        at = self.audio_out.end
        if self._open:
            at = min(at, self.audio_in.end * self.rate_hz // SAMPLE_RATE_HZ)
        self.audio_in.append(np.zeros(missing, np.float32))
        added = max(0, self.block_start(block + 1) - at)
        self.audio_out.insert_silence(at, added)
        if self._open:
            self.end = self.audio_out.end
            self._utterances.extend(self.end)
        return filled

    def look_ahead(self, block: int) -> int:
        """Samples of silence that stand for what is not known yet of the look-ahead of ``block``."""
        return max(0, (block + 1) * self._block + self._lookahead - self.audio_in.end)

    def cut(self, block: int) -> Samples:
        """What is played during ``block``; earlier samples are gone."""
        samples, runs = self.audio_out.take_runs(self.block_start(block + 1))
        self._played.append(samples, runs)
        self._played.forget(self._played.end - int(PLAYED_S * self.rate_hz))
        return samples

    @property
    def played(self) -> Samples:
        """The newest that was played [n], at the client's rate."""
        return self._played.read(self._played.first, self._played.end)

    def block_start(self, block: int) -> int:
        """First sample of ``block``, at the client's rate."""
        return block * self._frames_per_block * self.rate_hz // self._fps

    def _may_begin(self, one: Waiting, room: int, slack_ns: int, now_ns: int) -> bool:
        """Whether silence inside ``one`` is out of the question, or it has waited for as long as it may."""
        if one.complete:
            return True
        slack = max(0, slack_ns) * SAMPLE_RATE_HZ // NS_PER_S
        wanted = room + self._jitter
        if one.audio_in_samples >= room + self._lookahead and one.audio_in_samples + slack >= wanted:
            return True
        waited = (now_ns - one.came_ns) * SAMPLE_RATE_HZ // NS_PER_S
        return slack_ns <= 0 and waited >= self._block + self._jitter

    def _place(self, one: Waiting) -> None:
        first = self.audio_out.end
        for queue, pieces, origin in (
            (self.audio_in, one.audio_in, one.first_in),
            (self.audio_out, one.audio_out, one.first_out),
        ):
            for samples in pieces:
                queue.append(samples, origin)
                origin += samples.size
        self.end = self.audio_out.end
        self._open = not one.complete
        self._utterances.add(one.name, first, self.end)
        if one.complete:
            self._utterances.end()

    def snapshot(self, now_ns: int) -> point.SpeechState:
        """All of it as it is stored, without samples: those are in both logs."""
        return point.SpeechState(
            audio_out=track_message(self.audio_out),
            played=track_message(self._played),
            audio_in=track_message(self.audio_in),
            waiting=[_waiting_message(one, now_ns) for one in self._waiting],
            out_end=self.log_out.end,
            in_end=self.log_in.end,
            utterance_samples=self._utterance_samples,
            resampled=self._resampler.produced,
            recent=self._resampler.memory,
            first_offset=self._first_offset,
            coming=self._coming,
            open=self._open,
            dropping=self._dropping,
            dropped_samples=self.dropped_samples,
            end=self.end,
            finished=self.finished,
        )

    def restore(self, state: point.SpeechState, out: StoredLog, model: StoredLog, now_ns: int) -> None:
        """Makes it what ``snapshot`` was made of.

        Args:
            state: the snapshot.
            out: samples at the client's rate.
            model: samples at the model's rate.
            now_ns: by the clock of ``receive_audio``.

        Raises:
            ValueError: samples are not stored.
        """
        self.audio_out, self.audio_in = read_queue(state.audio_out, out), read_queue(state.audio_in, model)
        self._played = read_kept(state.played, out)
        self._waiting = deque(_waiting(one, out, model, now_ns) for one in state.waiting)
        self._utterance_samples, self._first_offset = state.utterance_samples, state.first_offset
        self._coming, self._open, self.finished = state.coming, state.open, state.finished
        self._dropping, self.dropped_samples = state.dropping, state.dropped_samples
        self.end = state.end
        if state.utterance_samples and not state.dropping:
            recent = out.read(Run(state.out_end - state.recent, state.recent))
            self._resampler.go_on(recent, state.utterance_samples, state.resampled)


def _waiting_message(one: Waiting, now_ns: int) -> point.WaitingUtterance:
    return point.WaitingUtterance(
        name=one.name,
        age_ns=now_ns - one.came_ns,
        complete=one.complete,
        audio_out=run_message(Run(one.first_out, one.audio_out_samples)),
        audio_in=run_message(Run(one.first_in, one.audio_in_samples)),
    )


def _waiting(stored: point.WaitingUtterance, out: StoredLog, model: StoredLog, now_ns: int) -> Waiting:
    of_out, of_model = read_run(stored.audio_out), read_run(stored.audio_in)
    one = Waiting(stored.name, now_ns - stored.age_ns, of_out.origin or 0, of_model.origin or 0, stored.complete)
    one.add(out.read(of_out), model.read(of_model))
    return one


def _queue_full(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "AUDIO_QUEUE_FULL", message)
