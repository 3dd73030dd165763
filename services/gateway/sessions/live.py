"""When the next block of a live session is admitted, and what has become of the blocks before.

Joins the pacing arithmetic and the speech that waits; reads no clock and waits for nothing.
"""

from dataclasses import dataclass

from live_avatar.config import Preset
from live_avatar.streaming.pacing import NS_PER_S, Pacer, PacingRules
from live_avatar.v1.media_pb2 import AudioFormat
from services.gateway.audio.live_speech import Filled, LiveSpeech
from services.gateway.audio.utterances import Utterances

_ROOM_BLOCKS = 2
"""Blocks beyond those in the pipeline that the default lead has room for: one that plays, one that enters at once."""


@dataclass(frozen=True, kw_only=True)
class LiveRules:
    """What an operator decides about live delivery."""

    max_lead_ms: int = 0
    """Most that may be generated or on its way beyond what was played; 0: two blocks more than the pipeline holds."""
    jitter_ms: int = 200
    """Speech that is kept in hand against late pieces."""
    margin_ms: int = 80
    """Time a block should arrive before it is due."""


class Live:
    """Pacing of one session."""

    def __init__(self, form: AudioFormat, preset: Preset, utterances: Utterances, rules: LiveRules, depth: int) -> None:
        block_ms = 1000 * preset.frames_per_block // preset.stream.fps
        self.speech = LiveSpeech(form, preset, utterances, rules.jitter_ms)
        self.rules = PacingRules(
            fps=preset.stream.fps,
            frames_per_block=preset.frames_per_block,
            dropped_frames=preset.stream.dropped_frames,
            max_lead_ms=rules.max_lead_ms or (depth + _ROOM_BLOCKS) * block_ms,
            margin_ms=rules.margin_ms,
        )
        self.pacer = Pacer(self.rules)
        self.starved_blocks = 0
        self._idle = True
        """The block before was."""

    @property
    def all_admitted(self) -> bool:
        """No speech is left that has not been admitted."""
        return self.speech.finished and self.speech.all_begun and not self.speech.spoken_in(self.pacer.next_block)

    def admit_at_ns(self, now_ns: int) -> int | None:
        """When the next block is to be admitted, as things stand: now or earlier means at once.

        None: not before something is delivered or reported.
        """
        room_ns = self.pacer.room_at_ns(now_ns)
        if room_ns is None or room_ns > now_ns:
            return room_ns
        block, latest_ns = self.pacer.next_block, max(self.pacer.needed_at_ns(now_ns), room_ns)
        self.speech.begin(block, latest_ns - now_ns, now_ns)
        if self._idle and self.speech.spoken_in(block) and self.speech.complete_in(block):
            # Speech after silence: as soon as there is room.
            return now_ns
        return latest_ns

    def admit(self, now_ns: int) -> Filled:
        """Admits the next block; what it holds is settled."""
        block = self.pacer.next_block
        self.speech.begin(block, 0, now_ns)
        filled = self.speech.fill(block)
        self.pacer.admit(now_ns)
        self._idle = filled.idle
        self.starved_blocks += filled.starved
        return filled

    def deliver(self, block: int, now_ns: int) -> None:
        """All pictures of ``block`` have been written to the client."""
        self.pacer.deliver(block, self.rules.end_frame(block), now_ns)

    def report(self, media_ns: int, now_ns: int) -> None:
        """The client has played up to ``media_ns`` of the session."""
        frame = media_ns * self.rules.fps // NS_PER_S - self.rules.dropped_frames
        self.pacer.playback.report(frame, now_ns)

    def played_ns(self, now_ns: int) -> int:
        """Media time up to which the client has played."""
        frame = self.pacer.playback.position(now_ns)
        return self.rules.frames_to_ns(frame + self.rules.dropped_frames) if frame else 0
