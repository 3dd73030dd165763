"""What a client is to learn beside the video, in the order in which it happened.

One queue for all of it: whoever finds that something happened adds to it in the same step, and one writer at a time
takes from it, so that no event overtakes another.  Plain data: knows nothing of messages or streams.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

from live_avatar.config import Preset
from live_avatar.gateway.v1.recovery_point_pb2 import EventState, Problem, WaitingEvent
from live_avatar.services.gateway.audio.utterances import Utterances
from live_avatar.services.gateway.refusals import slow_consumer
from live_avatar.serving.errors import ServiceError, code_of

NANOSECONDS = 1_000_000_000
MAX_WAITING = 1_024
"""Events; more than one block and one barge-in can make of all utterances that a session may hold."""


class EventKind(Enum):
    """What happened; named as in the public API."""

    UTTERANCE_STARTED = auto()
    UTTERANCE_FINISHED = auto()
    UTTERANCE_INTERRUPTED = auto()
    UPDATE_APPLIED = auto()
    WARNING = auto()
    DEGRADED = auto()
    RECOVERED = auto()
    DISCONTINUITY = auto()
    DISCLOSURE = auto()
    SIGNED_RECORD = auto()


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened that is not media."""

    kind: EventKind
    utterance_id: str = ""
    media_ns: int = 0
    """Where on the session's clock."""
    block: int = 0
    problem: ServiceError | None = None
    """What is wrong, where something is; it does not end the stream."""
    text: str = ""
    """For people."""
    signed_record: str = ""
    consumed: int = 0
    """Sequence of the client's last message that came before a barge-in which dropped something."""


@dataclass(frozen=True)
class GoAway:
    """The stream will end."""

    time_left_s: float
    reason: str
    resumable: bool = False
    """The session goes on with another stream."""


Notice = Event | GoAway


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """What a barge-in met."""

    played_ns: int
    """Media time up to which the client had played."""
    first_clean: int
    """First block without anything of what was interrupted."""


def media_ns(count: int, per_second: int) -> int:
    """The time of ``count`` samples or frames, in whole nanoseconds."""
    return count * NANOSECONDS // per_second


class EventQueue:
    """Notices of one session that have not been written yet, oldest first.

    Args:
        utterances: of the session.
        rate_hz: of the client's samples, in which utterances are measured.
        preset: of the session's pipeline.
        changed: called whenever there is more to write.
        fail: called where the client leaves too much of it unread.
    """

    def __init__(
        self,
        utterances: Utterances,
        rate_hz: int,
        preset: Preset,
        changed: Callable[[], None],
        fail: Callable[[ServiceError], None],
    ) -> None:
        self._utterances = utterances
        self._rate_hz = rate_hz
        self._preset = preset
        self._changed = changed
        self._fail = fail
        self._waiting: deque[Notice] = deque()
        self._applied: deque[int] = deque()
        """First blocks of updates of which the event was not added yet."""
        self._losses: dict[int, ServiceError] = {}
        """Why sessions went on anew with blocks that have not been delivered yet."""
        self._announced_ends: set[str] = set()
        self._consumed = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def message_consumed(self, sequence: int) -> None:
        """The client's message ``sequence`` is taken; barge-ins name the last one before them."""
        self._consumed = sequence

    def add(self, notice: Notice) -> None:
        """Adds what is to be written next; of interruptions that nobody has read, the last one alone stays."""
        if self._waiting and _replaces(notice, self._waiting[-1]):
            self._waiting.pop()
        if len(self._waiting) >= MAX_WAITING:
            self._fail(slow_consumer(f"{MAX_WAITING} events wait"))
            return
        self._waiting.append(notice)
        self._changed()

    def take(self) -> Notice:
        """The oldest; raises IndexError where there is none."""
        return self._waiting.popleft()

    def go_away(self, time_left_s: float, reason: str, *, resumable: bool = False) -> None:
        """The stream will end; added once for each reason, and again only after ``goes_on``."""
        if reason not in self._announced_ends:
            self._announced_ends.add(reason)
            self.add(GoAway(time_left_s, reason, resumable))

    def goes_on(self, reason: str) -> None:
        """The stream does not end for ``reason`` after all."""
        self._announced_ends.discard(reason)

    def forget_ends(self) -> None:
        """Ends that were announced are announced again: nobody may have received that."""
        self._announced_ends.clear()

    def update_applied(self, block: int) -> None:
        """An update holds from ``block`` on; the event is added once that block is delivered."""
        if not self._applied or self._applied[-1] != block:
            self._applied.append(block)

    def goes_on_with(self, block: int, cause: ServiceError) -> None:
        """The pipeline was lost for ``cause``, and ``block`` comes from another; added when that is delivered."""
        self._losses[block] = cause

    def block_begins(self, block: int, end: int) -> None:
        """The video of ``block`` comes next, whose last sample is ``end`` - 1."""
        cause = self._losses.pop(block, None)
        if cause is not None:
            at = media_ns(block * self._preset.frames_per_block, self._preset.stream.fps)
            self.add(Event(kind=EventKind.DISCONTINUITY, media_ns=at, block=block, problem=cause))
        while self._applied and self._applied[0] <= block:
            first = self._applied.popleft()
            at = media_ns(first * self._preset.frames_per_block, self._preset.stream.fps)
            self.add(Event(kind=EventKind.UPDATE_APPLIED, media_ns=at, block=first))
        for one in self._utterances.begun(end):
            self._add_utterance(EventKind.UTTERANCE_STARTED, one.name, one.first, block)

    def block_ended(self, block: int, end: int) -> None:
        """The client has the video up to sample ``end`` - 1, all of ``block``."""
        for one in self._utterances.ended(end):
            self._add_utterance(EventKind.UTTERANCE_FINISHED, one.name, one.end, block)

    def interrupted(
        self, names: Iterable[str], done: Interruption, *, drops: bool, problem: ServiceError | None = None
    ) -> None:
        """A barge-in ended the utterances ``names``; where there was none, the event has no name.

        Args:
            names: of the utterances.
            done: where the barge-in met them.
            drops: speech was dropped.
            problem: what the client does wrong since.
        """
        for name in list(names) or [""]:
            self.add(
                Event(
                    kind=EventKind.UTTERANCE_INTERRUPTED,
                    utterance_id=name,
                    media_ns=done.played_ns,
                    block=done.first_clean,
                    problem=problem,
                    consumed=self._consumed if drops else 0,
                )
            )

    def snapshot(self) -> EventState:
        """As it is stored; ends that were announced are announced again."""
        waiting = [_event_message(one) for one in self._waiting if isinstance(one, Event)]
        return EventState(waiting=waiting, applied=self._applied, consumed=self._consumed)

    def restore(self, stored: EventState) -> None:
        """Makes it what ``snapshot`` was made of."""
        self._waiting = deque(map(_event, stored.waiting))
        self._applied, self._consumed = deque(stored.applied), stored.consumed

    def _add_utterance(self, kind: EventKind, name: str, sample: int, block: int) -> None:
        self.add(Event(kind=kind, utterance_id=name, media_ns=media_ns(sample, self._rate_hz), block=block))


def _event_message(event: Event) -> WaitingEvent:
    problem = None
    if event.problem is not None:
        one = event.problem
        problem = Problem(code=one.code.value[0], reason=one.reason, message=one.message, metadata=one.metadata)
    return WaitingEvent(
        kind=event.kind.name,
        utterance_id=event.utterance_id,
        media_ns=event.media_ns,
        block=event.block,
        problem=problem,
        consumed=event.consumed,
    )


def _event(stored: WaitingEvent) -> Event:
    problem = None
    if stored.HasField("problem"):
        one = stored.problem
        problem = ServiceError(code_of(one.code), one.reason, one.message, dict(one.metadata))
    return Event(
        kind=EventKind[stored.kind],
        utterance_id=stored.utterance_id,
        media_ns=stored.media_ns,
        block=stored.block,
        problem=problem,
        consumed=stored.consumed,
    )


def _replaces(new: Notice, old: Notice) -> bool:
    """Whether an event that waits is worth nothing beside a later one."""
    if not isinstance(new, Event) or not isinstance(old, Event):
        return False
    same = (new.kind, new.utterance_id) == (old.kind, old.utterance_id)
    return same and new.kind is EventKind.UTTERANCE_INTERRUPTED and new.consumed >= old.consumed
