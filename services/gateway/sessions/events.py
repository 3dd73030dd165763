"""What a client is told beside the video, in the order in which it happened.

One queue for all of it: whoever finds that something happened adds to it in the same step, and one writer at a time
takes from it, so that no event overtakes another.  Knows events and when they are due; nothing of streams.
"""

from collections import deque
from collections.abc import Callable, Iterable

from google.rpc import status_pb2

from live_avatar.config import Preset
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from services.gateway.api import messages
from services.gateway.audio.utterances import Utterances
from services.gateway.limits import slow_consumer
from services.gateway.sessions.progress import Interruption

Event = api.StreamAvatarResponse.Event

MAX_WAITING = 1_024
"""Events; more than one block and one barge-in can make of all utterances that a session may hold."""


class Notices:
    """Those of one session that have not been written yet, oldest first.

    Args:
        rate_hz: of the client's samples, in which utterances are measured.
        changed: called whenever there is more to tell.
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
        self._waiting: deque[api.StreamAvatarResponse] = deque()
        self._applied: deque[int] = deque()
        """First blocks of updates of which this was not said yet."""
        self._announced_ends: set[str] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, notice: api.StreamAvatarResponse) -> None:
        """Adds what is to be written next; of interruptions that nobody has read, the last one alone stays."""
        if self._waiting and _replaces(notice, self._waiting[-1]):
            self._waiting.pop()
        if len(self._waiting) >= MAX_WAITING:
            self._fail(slow_consumer(f"{MAX_WAITING} events wait"))
            return
        self._waiting.append(notice)
        self._changed()

    def take(self) -> api.StreamAvatarResponse:
        """The oldest; raises IndexError where there is none."""
        return self._waiting.popleft()

    def go_away(self, time_left_s: float, reason: str) -> None:
        """The stream will end; said once of each reason, and again only after ``goes_on``."""
        if reason not in self._announced_ends:
            self._announced_ends.add(reason)
            self.add(messages.go_away(time_left_s, reason))

    def goes_on(self, reason: str) -> None:
        """The stream does not end for ``reason`` after all."""
        self._announced_ends.discard(reason)

    def update_applied(self, block: int) -> None:
        """An update holds from ``block`` on; it is said once that block is delivered."""
        if not self._applied or self._applied[-1] != block:
            self._applied.append(block)

    def block_begins(self, block: int, end: int) -> None:
        """The video of ``block`` comes next, whose last sample is ``end`` - 1."""
        while self._applied and self._applied[0] <= block:
            first = self._applied.popleft()
            at = messages.duration(first * self._preset.frames_per_block, self._preset.stream.fps)
            self.add(messages.event(Event.KIND_UPDATE_APPLIED, "", at, first))
        for one in self._utterances.begun(end):
            at = messages.duration(one.first, self._rate_hz)
            self.add(messages.event(Event.KIND_UTTERANCE_STARTED, one.name, at, block))

    def block_ended(self, block: int, end: int) -> None:
        """The client has the video up to sample ``end`` - 1, all of ``block``."""
        for one in self._utterances.ended(end):
            at = messages.duration(one.end, self._rate_hz)
            self.add(messages.event(Event.KIND_UTTERANCE_FINISHED, one.name, at, block))

    def interrupted(
        self, names: Iterable[str], done: Interruption, consumed: int, warning: status_pb2.Status | None = None
    ) -> None:
        """A barge-in ended the utterances ``names``; where there was none, that is said without a name.

        Args:
            names: of the utterances.
            done: where the barge-in met them.
            consumed: sequence of the client's last message that came before it; 0: nothing was dropped.
            warning: what the client does wrong since.
        """
        at = messages.duration(done.played_ns, messages.NANOSECONDS)
        for name in list(names) or [""]:
            notice = messages.event(Event.KIND_UTTERANCE_INTERRUPTED, name, at, done.first_clean, warning)
            notice.event.last_consumed_client_sequence = consumed
            self.add(notice)


def _replaces(new: api.StreamAvatarResponse, old: api.StreamAvatarResponse) -> bool:
    """Whether an event that waits is worth nothing beside a later one."""
    same = (new.event.kind, new.event.utterance_id) == (old.event.kind, old.event.utterance_id)
    later = new.event.last_consumed_client_sequence >= old.event.last_consumed_client_sequence
    return same and later and new.event.kind == Event.KIND_UTTERANCE_INTERRUPTED
