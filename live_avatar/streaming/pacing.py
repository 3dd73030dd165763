"""When a block may enter the pipeline: arithmetic on times that the caller measures.

Pacing happens at admission and nowhere else (design: stages never sleep).  A block is admitted when the viewer will
need it: at the moment its first frame is due on the viewer's screen, less what the pipeline takes, less a margin.
This file reads no clock, holds no queue and knows no session; times are integer nanoseconds of any monotonic clock.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

NS_PER_S = 1_000_000_000
_LATENCIES_KEPT = 32
_TYPICAL_OF = 8
"""Latencies of which the largest is expected of the next block."""


@dataclass(frozen=True, kw_only=True)
class PacingRules:
    """What a live session is paced by."""

    fps: int
    frames_per_block: int
    dropped_frames: int
    """Frames of block 0 that are never shown."""
    max_lead_ms: int
    """Most that may be generated or on its way beyond what has been played; two blocks more than the pipeline takes
    leave room for speech to enter at once."""
    margin_ms: int
    """Time a block should arrive before it is due, for the jitter of network and player."""
    first_latency_ms: int = 1000
    """Latency expected before one has been measured."""
    report_holds_ms: int = 1000
    """A viewer who reports is believed to play on for so long after each report."""

    def __post_init__(self) -> None:
        block_ms = 1000 * self.frames_per_block / self.fps
        if self.max_lead_ms < block_ms:
            raise ValueError(f"max_lead_ms={self.max_lead_ms} is less than one block of {block_ms:.0f} ms")

    def first_frame(self, block: int) -> int:
        """Number of the first frame shown of ``block``."""
        return max(0, block * self.frames_per_block - self.dropped_frames)

    def end_frame(self, block: int) -> int:
        """Number of the frame after the last of ``block``."""
        return (block + 1) * self.frames_per_block - self.dropped_frames

    def frames_to_ns(self, frames: int) -> int:
        """Duration of ``frames`` frames."""
        return frames * NS_PER_S // self.fps

    @property
    def block_ns(self) -> int:
        """Duration of one block."""
        return self.frames_to_ns(self.frames_per_block)


@dataclass(frozen=True, kw_only=True)
class PlaybackAges:
    """Where a viewer was; None: that has not happened."""

    frame: int
    delivered: int
    reported: bool
    frame_age_ns: int | None
    """How long ago the viewer was at ``frame``."""
    dry_age_ns: int | None
    """How long ago everything was played."""


@dataclass
class Playback:
    """Where the viewer is: the last position known, moved on at the frame rate but never past what was delivered."""

    rules: PacingRules
    delivered: int = 0
    """Frames that have been delivered; playback stalls there."""
    _frame: int = 0
    _at_ns: int | None = None
    _reported: bool = False
    _ran_dry_ns: int | None = None
    """When the viewer said that everything was played; None where they play on, or have not said."""

    @property
    def started(self) -> bool:
        """Whether anything has been delivered yet."""
        return self._at_ns is not None

    def position(self, now_ns: int) -> int:
        """Frames played at ``now_ns``."""
        if self._at_ns is None:
            return 0
        elapsed = max(0, now_ns - self._at_ns) * self.rules.fps // NS_PER_S
        return min(self._frame + elapsed, self.reachable)

    @property
    def reachable(self) -> int:
        """Frames that playback is believed to reach without another word of the viewer's."""
        if not self._reported:
            return self.delivered
        trusted = self.rules.report_holds_ms * self.rules.fps // 1000
        return min(self.delivered, self._frame + trusted)

    def due_ns(self, frame: int) -> int:
        """When ``frame`` will be wanted if playback does not stall; only once started."""
        assert self._at_ns is not None
        return self._at_ns + self.rules.frames_to_ns(frame - self._frame)

    @property
    def dry_at_ns(self) -> int | None:
        """When everything delivered has been played, as far as anybody knows; None before the first delivery."""
        if self._at_ns is None:
            return None
        return self.due_ns(self.delivered) if self._ran_dry_ns is None else self._ran_dry_ns

    def waiting_ns(self, now_ns: int) -> int:
        """How long the viewer has had nothing to show; 0 before the first delivery."""
        dry_ns = self.dry_at_ns
        if dry_ns is None or self.position(now_ns) < self.delivered:
            return 0
        return max(0, now_ns - dry_ns)

    def deliver(self, end_frame: int, now_ns: int) -> None:
        """Frames up to ``end_frame`` reached the viewer.  Playback starts with the first, and resumes from a stall."""
        stalled = self._at_ns is None or self.position(now_ns) >= self.delivered
        if stalled:
            self._frame, self._at_ns = self.delivered, now_ns
        self._ran_dry_ns = None
        self.delivered = max(self.delivered, end_frame)

    def resume(self, now_ns: int) -> None:
        """A viewer who has played everything goes on at ``now_ns``, and has not waited until then."""
        if self._at_ns is not None and self.position(now_ns) >= self.delivered:
            self._frame, self._at_ns, self._ran_dry_ns = self.delivered, now_ns, None

    def ages(self, now_ns: int) -> PlaybackAges:
        """What ``go_on`` needs at another clock."""
        return PlaybackAges(
            frame=self._frame,
            delivered=self.delivered,
            reported=self._reported,
            frame_age_ns=None if self._at_ns is None else now_ns - self._at_ns,
            dry_age_ns=None if self._ran_dry_ns is None else now_ns - self._ran_dry_ns,
        )

    def go_on(self, ages: PlaybackAges, now_ns: int) -> None:
        """Makes it what ``ages`` was made of, as if no time had passed until ``now_ns`` of this clock."""
        self._frame, self.delivered, self._reported = ages.frame, ages.delivered, ages.reported
        self._at_ns = None if ages.frame_age_ns is None else now_ns - ages.frame_age_ns
        self._ran_dry_ns = None if ages.dry_age_ns is None else now_ns - ages.dry_age_ns

    def report(self, frame: int, now_ns: int) -> None:
        """The viewer's own word for where it is; it counts more than our reckoning, within what was delivered.

        Ignored before the first delivery, when there is nothing to be anywhere in.
        """
        if self._at_ns is None:
            return
        dry_ns = self.dry_at_ns if frame >= self.delivered else None
        self._ran_dry_ns = None if dry_ns is None else min(now_ns, dry_ns)
        self._frame, self._at_ns, self._reported = min(max(0, frame), self.delivered), now_ns, True


@dataclass
class Pacer:
    """Admission times of one live session; its blocks are counted by whoever admits them."""

    rules: PacingRules
    playback: Playback = field(init=False)
    _admitted_ns: dict[int, int] = field(default_factory=dict)
    _latencies_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_LATENCIES_KEPT))
    _began_ns: int | None = None

    def __post_init__(self) -> None:
        self.playback = Playback(self.rules)

    def pace_by(self, rules: PacingRules) -> None:
        """Other rules hold from now on."""
        self.rules = self.playback.rules = rules

    @property
    def latencies_ns(self) -> Sequence[int]:
        """Those that were measured, oldest first."""
        return tuple(self._latencies_ns)

    def age_ns(self, now_ns: int) -> int | None:
        """How long ago the first block was admitted; None: none was."""
        return None if self._began_ns is None else now_ns - self._began_ns

    def go_on(self, latencies_ns: Sequence[int], age_ns: int | None, now_ns: int) -> None:
        """Goes on with what another object has measured; blocks on their way are not measured."""
        self._admitted_ns.clear()
        self._latencies_ns.extend(latencies_ns)
        self._began_ns = None if age_ns is None else now_ns - age_ns

    @property
    def latency_ns(self) -> int:
        """What the next block is expected to take from admission to its first frame."""
        if not self._latencies_ns:
            return self.rules.first_latency_ms * NS_PER_S // 1000
        return max(list(self._latencies_ns)[-_TYPICAL_OF:])

    def room_at_ns(self, block: int, now_ns: int) -> int | None:
        """Earliest time at which ``block`` lies within ``max_lead_ms`` of playback; now or earlier means it does.

        None: not before something is delivered, or the viewer reports.
        """
        lead = self.rules.max_lead_ms * self.rules.fps // 1000
        room = self.rules.end_frame(block) - lead
        if room <= self.playback.position(now_ns):
            return now_ns
        if not self.playback.started or room > self.playback.reachable:
            return None
        return self.playback.due_ns(room)

    def needed_at_ns(self, block: int, now_ns: int) -> int:
        """Latest time at which ``block``, the next one, may be admitted without being late, as far as anybody knows.

        Until the first delivery, blocks follow each other as their frames will be played, wherever that begins.
        """
        margin = self.rules.margin_ms * NS_PER_S // 1000
        first_frame = self.rules.first_frame(block)
        if self.playback.started:
            return self.playback.due_ns(first_frame) - self.latency_ns - margin
        if self._began_ns is None:
            return now_ns
        return self._began_ns + self.rules.frames_to_ns(first_frame) - margin

    def resume(self, now_ns: int) -> None:
        """The viewer is there again; the next block is not late before it can have come."""
        self.playback.resume(now_ns + self.latency_ns + self.rules.margin_ms * NS_PER_S // 1000)

    def admit(self, block: int, now_ns: int) -> None:
        """``block`` is admitted now."""
        self._admitted_ns[block] = now_ns
        if self._began_ns is None:
            self._began_ns = now_ns

    def deliver(self, block: int, end_frame: int, now_ns: int) -> None:
        """Frames up to ``end_frame`` of ``block`` reached the viewer; the first delivery of a block measures it."""
        admitted = self._admitted_ns.pop(block, None)
        if admitted is not None:
            self._latencies_ns.append(now_ns - admitted)
        self.playback.deliver(end_frame, now_ns)
