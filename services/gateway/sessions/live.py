"""Live delivery: a block enters the pipeline when its viewer needs it, with the speech that has come by then.

See ``Delivery``.  Joins the pacing arithmetic, the speech that waits and the watch over late blocks.
"""

import time

from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.gateway.v1 import recovery_point_pb2 as point
from live_avatar.services.gateway.audio.kept_sound import KeptSound
from live_avatar.services.gateway.audio.live_speech import Filled, LiveSpeech
from live_avatar.services.gateway.audio.speech import Samples
from live_avatar.services.gateway.audio.stored_speech import StoredLog, read_kept, track_message
from live_avatar.services.gateway.refusals import INVALID, MESSAGE_OUT_OF_ORDER
from live_avatar.services.gateway.sessions.barge_ins import BargeIns
from live_avatar.services.gateway.sessions.delivery import (
    Admission,
    AudioPiece,
    DeliveryBounds,
    DeliveryContext,
    DeliveryCut,
)
from live_avatar.services.gateway.sessions.events import Interruption
from live_avatar.services.gateway.sessions.ledger import ArrivedBlock
from live_avatar.services.gateway.sessions.pacing_state import pacing_message, restore_pacing
from live_avatar.services.gateway.sessions.policy import LiveRules
from live_avatar.services.gateway.sessions.punctuality import Punctuality
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.pacing import NS_PER_S, Pacer, PacingRules

_ROOM_BLOCKS = 2
"""Blocks beyond those in the pipeline that the default lead has room for: one that plays, one that enters at once."""
_SPARE_BLOCKS = 2
"""Blocks beyond one per service: one that is delivered, one that enters."""
_QUIET = frozenset({"credit", "playback_report", "received", "video"})
"""What goes on by itself while nobody speaks."""


class LiveDelivery:
    """See ``Delivery``."""

    def __init__(self, context: DeliveryContext) -> None:
        preset, limits = context.preset, context.limits
        self.speech = LiveSpeech(context.config.audio, preset, context.utterances, context.rules.jitter_ms)
        self._rules = context.rules
        self.pacer = Pacer(_pacing(preset, context.rules, context.depth))
        self.starved_blocks = 0
        self.speech_at_s: float | None = None
        self.bounds = DeliveryBounds(
            spare_blocks=_SPARE_BLOCKS,
            idle_timeout_s=limits.live_idle_seconds,
            quiet_messages=_QUIET,
            idles_in_flight=True,
            held_bytes=limits.max_unread_bytes,
            take_s=limits.live_slow_consumer_seconds,
            outlives_pipeline=True,
        )
        self.punctuality = Punctuality(context, self.pacer, lambda: self.finished)
        self._barge_ins = BargeIns(self.speech, self.played_ns, context.events, limits.max_live_audio_seconds)
        self._most_audio_s = limits.max_live_audio_seconds
        self._utterances = context.utterances
        self._ledger = context.ledger
        self._preset = preset
        self._lookahead = round(preset.stream.lookahead_s * SAMPLE_RATE_HZ)
        self._was_idle = True
        """The block before was."""
        self._sound = KeptSound()
        """What the encoder was sent, from the left context of the next block to be delivered on."""
        self._left_context = round(preset.stream.left_context_s * SAMPLE_RATE_HZ) if limits.resume_seconds else 0
        self._sent = 0
        """Samples that the encoder has been sent, without silence after them."""
        self._settled = 0
        """Blocks of which is settled what they hold: more than were admitted, where they are admitted again."""
        self._idle: dict[int, bool] = {}
        """Which of those that are not delivered hold no sample of the client's."""

    @property
    def has_next(self) -> bool:
        """Always: where nobody speaks there is silence."""
        return True

    @property
    def finished(self) -> bool:
        """No speech is left that has not been admitted."""
        return self.speech.finished and self.speech.all_begun and not self.speech.spoken_in(self._ledger.admitted)

    @property
    def end_sample(self) -> int:
        """See ``Delivery``."""
        return self.speech.audio_out.end

    @property
    def frames_shown(self) -> int:
        """See ``Delivery``."""
        return self.pacer.rules.first_frame(self._ledger.delivered)

    def may_read(self, credits: int) -> bool:
        """Always: what the client says next may be a barge-in."""
        return True

    def opened(self) -> None:
        """The time to the first frame counts from here."""
        self.speech_at_s = time.monotonic()

    def resumed(self) -> None:
        """See ``Delivery``; that nothing was shown meanwhile is nobody's delay."""
        self.pacer.resume(time.monotonic_ns())

    @property
    def lacks_speech(self) -> bool:
        """See ``Delivery``."""
        return self.speech.lacks_in(self._ledger.admitted)

    def receive_audio(self, data: bytes, sample_offset: int, utterance_id: str, samples: int) -> None:
        """See ``Delivery``; speech of an interrupted utterance is dropped."""
        if self.speech.finished:
            raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, "speech came after its end", field="audio_chunk")
        self.speech.check_room(samples, self._most_audio_s)
        self.speech.receive_audio(data, sample_offset, utterance_id, time.monotonic_ns())
        self._barge_ins.watch(self._ledger.admitted)

    def end_utterance(self, utterance_id: str) -> None:
        """See ``Delivery``."""
        self.speech.end_utterance(utterance_id)

    def finish(self) -> None:
        """See ``Delivery``."""
        if not self.speech.finished:
            self.speech.finish()

    def interrupt(self, utterance_id: str, request_id: str, *, in_order: bool) -> Interruption:
        """See ``Delivery``."""
        done = self._barge_ins.interrupt(utterance_id, request_id, self._ledger.admitted, in_order=in_order)
        left = self.speech.audio_in.first
        if left < self._sound.end:
            self._sound.truncate(left)
            self._sent, self._settled = min(self._sent, left), min(self._settled, self._ledger.admitted)
        return done

    def report_playback(self, media_ns: int) -> None:
        """See ``Delivery``."""
        rules = self.pacer.rules
        frame = media_ns * rules.fps // NS_PER_S - rules.dropped_frames
        self.pacer.playback.report(frame, time.monotonic_ns())

    def played_ns(self, now_ns: int) -> int:
        """Media time up to which the client has played."""
        rules, frame = self.pacer.rules, self.pacer.playback.position(now_ns)
        return rules.frames_to_ns(frame + rules.dropped_frames) if frame else 0

    def next_admission_ns(self, now_ns: int) -> int | None:
        """See ``Delivery``; None: not before something is delivered or reported."""
        block = self._ledger.admitted
        room_ns = self.pacer.room_at_ns(block, now_ns)
        if room_ns is None or room_ns > now_ns:
            return room_ns
        latest_ns = max(self.pacer.needed_at_ns(block, now_ns), room_ns)
        self.speech.begin(block, latest_ns - now_ns, now_ns)
        if self._was_idle and self.speech.spoken_in(block) and self.speech.complete_in(block):
            # Speech after silence: as soon as there is room.
            return now_ns
        return latest_ns

    def slot_ns(self, due_ns: int) -> int:
        """At that time."""
        return due_ns

    def has_audio_ahead(self, least: int) -> bool:
        """Never: speech goes down with its block."""
        return False

    def audio_ahead(self) -> list[AudioPiece]:
        """Nothing, see ``has_audio_ahead``."""
        return []

    def admit(self, now_ns: int) -> Admission:
        """What is known of the next block and its look-ahead, and silence that later speech may replace."""
        block = self._ledger.admitted
        if block < self._settled:
            self.pacer.admit(block, now_ns)
        else:
            self._idle[block], self._settled = self.fill(block, now_ns).idle, block + 1
        end = (block + 1) * self._preset.samples_per_block + self._lookahead
        self._sound.append(*self.speech.audio_in.take_runs(end))
        samples, first = self._sound.read(self._sent, end), self._sent
        self._sent += samples.size
        piece = AudioPiece(samples=samples, first=first, silence=end - self._sent)
        return Admission(pieces=(piece,), idle=self._idle[block])

    def move(self, depth: int) -> None:
        """See ``Delivery``; the lead is that of the new pipeline."""
        self.pacer.pace_by(_pacing(self._preset, self._rules, depth))
        self._sent = max(0, self._ledger.admitted * self._preset.samples_per_block - self._left_context)

    def fill(self, block: int, now_ns: int) -> Filled:
        """Settles what ``block`` holds, which is admitted now."""
        self.speech.begin(block, 0, now_ns)
        filled = self.speech.fill(block)
        self.pacer.admit(block, now_ns)
        self._was_idle = filled.idle
        self.starved_blocks += filled.starved
        self.punctuality.admitted(block, starved=filled.starved)
        return filled

    def cut(self, arrived: ArrivedBlock) -> DeliveryCut:
        """See ``Delivery``."""
        first = self.speech.audio_out.first
        return DeliveryCut(
            speech=self.speech.cut(arrived.index),
            first_sample=first,
            utterance_id=self._utterances.at(first),
            frames=arrived.frames,
        )

    def encode(self, speech: Samples) -> bytes:
        """See ``Delivery``."""
        return self.speech.encode(speech)

    def delivered(self, arrived: ArrivedBlock) -> None:
        """See ``Delivery``."""
        self.block_shown(arrived, time.monotonic_ns())
        self._idle.pop(arrived.index, None)
        before = (arrived.index + 1) * self._preset.samples_per_block - self._left_context
        self._sound.forget(min(before, self._sent))

    def block_shown(self, arrived: ArrivedBlock, now_ns: int) -> None:
        """All frames of a block were written to the client by ``now_ns``."""
        self.punctuality.delivered(arrived, now_ns)
        self.pacer.deliver(arrived.index, self.pacer.rules.end_frame(arrived.index), now_ns)

    def snapshot(self, state: point.SessionState, now_ns: int) -> None:
        """Adds to ``state`` what speech and pacing need to go on with the next block to be delivered."""
        state.speech.CopyFrom(self.speech.snapshot(now_ns))
        state.speech.sound.CopyFrom(track_message(self._sound))
        state.utterances.extend(self._utterances.snapshot())
        state.pacing.CopyFrom(pacing_message(self.pacer, now_ns))
        state.settled.extend(point.SettledBlock(index=index, idle=idle) for index, idle in sorted(self._idle.items()))
        state.was_idle, state.starved_blocks = self._was_idle, self.starved_blocks
        state.delays.extend(self.punctuality.snapshot())
        state.barge_ins.CopyFrom(self._barge_ins.snapshot(now_ns))

    def restore(self, state: point.SessionState, out: StoredLog, model: StoredLog, now_ns: int) -> None:
        """Makes it what ``snapshot`` was made of; blocks of which is settled what they hold are admitted again.

        Raises:
            ValueError: samples are not stored.
        """
        self.speech.restore(state.speech, out, model, now_ns)
        self._sound = read_kept(state.speech.sound, model)
        self._utterances.restore(state.utterances)
        restore_pacing(self.pacer, state.pacing, now_ns)
        self._idle = {one.index: one.idle for one in state.settled}
        self._settled = max(self._idle, default=state.block - 1) + 1
        self._sent = self._sound.end
        self._was_idle, self.starved_blocks = state.was_idle, state.starved_blocks
        self.punctuality.restore(state.delays)
        self._barge_ins.restore(state.barge_ins, now_ns)

    async def watch(self) -> None:
        """See ``Delivery``."""
        await self.punctuality.watch()

    def close(self) -> None:
        """See ``Delivery``: a session that is over is no longer degraded."""
        self.punctuality.close()


def _pacing(preset: Preset, rules: LiveRules, depth: int) -> PacingRules:
    """By what a session on a pipeline of ``depth`` services is paced."""
    block_ms = 1000 * preset.frames_per_block // preset.stream.fps
    return PacingRules(
        fps=preset.stream.fps,
        frames_per_block=preset.frames_per_block,
        dropped_frames=preset.stream.dropped_frames,
        max_lead_ms=rules.max_lead_ms or (depth + _ROOM_BLOCKS) * block_ms,
        margin_ms=rules.margin_ms,
    )
