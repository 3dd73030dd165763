"""What a client is told beside the video, in the order in which it happened.

One queue for all of it: whoever finds that something happened adds to it in the same step, and one writer at a time
takes from it, so that no event overtakes another.  Knows events and when they are due; nothing of streams.
"""

from collections import deque
from collections.abc import Callable, Iterable

from live_avatar.config import Preset
from live_avatar.v1 import avatar_service_pb2 as api
from services.gateway import messages
from services.gateway.progress import Interruption
from services.gateway.utterances import Utterances

Event = api.StreamAvatarResponse.Event


class Notices:
    """Those of one session that have not been written yet, oldest first.

    Args:
        rate_hz: of the client's samples, in which utterances are measured.
        changed: called whenever there is more to tell.
    """

    def __init__(self, utterances: Utterances, rate_hz: int, preset: Preset, changed: Callable[[], None]) -> None:
        self._utterances = utterances
        self._rate_hz = rate_hz
        self._preset = preset
        self._changed = changed
        self._waiting: deque[api.StreamAvatarResponse] = deque()
        self._applied: deque[int] = deque()
        """First blocks of updates of which this was not said yet."""
        self._announced_ends: set[str] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, notice: api.StreamAvatarResponse) -> None:
        """Adds what is to be written next."""
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

    def interrupted(self, names: Iterable[str], done: Interruption) -> None:
        """A barge-in ended the utterances ``names``; where there was none, that is said without a name."""
        at = messages.duration(done.played_ns, messages.NANOSECONDS)
        for name in list(names) or [""]:
            self.add(messages.event(Event.KIND_UTTERANCE_INTERRUPTED, name, at, done.first_clean))
