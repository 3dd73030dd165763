"""Which utterance lies where on the session's clock.

Knows names and samples; nothing of audio itself.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from live_avatar.gateway.v1.recovery_point_pb2 import PlacedUtterance
from live_avatar.services.gateway.refusals import INVALID, MESSAGE_OUT_OF_ORDER
from live_avatar.serving.errors import ServiceError


@dataclass
class Utterance:
    """One utterance on the session's clock, in the client's samples."""

    name: str
    first: int
    end: int
    complete: bool = False
    started: bool = False
    """Its beginning was reported to the client."""
    interrupted: bool = False
    """A barge-in ended it; its remaining speech is delivered without a further event about it."""

    def start(self) -> None:
        """Its beginning is reported now."""
        self.started = True

    def extend(self, end: int) -> None:
        """It reaches to sample ``end`` - 1 now."""
        self.end = end

    def finish(self) -> None:
        """None of its speech follows."""
        self.complete = True

    def interrupt(self, end: int) -> None:
        """Ends it at sample ``end`` where it lasts longer."""
        self.end, self.interrupted, self.complete = min(self.end, end), True, True


class Utterances:
    """Those whose video the client does not have yet, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Utterance] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def check(self, name: str) -> None:
        """Raises ServiceError INVALID_ARGUMENT where another utterance has not ended."""
        if self._waiting and not self._waiting[-1].complete and name not in ("", self._waiting[-1].name):
            running = self._waiting[-1].name
            message = f"utterance {name!r} came before the end of {running!r}"
            raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, message, field="utterance_id")

    @property
    def runs(self) -> bool:
        """One of them was not interrupted."""
        return any(not one.interrupted for one in self._waiting)

    @property
    def last(self) -> str:
        """Name of the last one; empty where there is none."""
        return self._waiting[-1].name if self._waiting else ""

    def knows(self, name: str) -> bool:
        """Whether utterance ``name`` is among them and was not interrupted."""
        return any(one.name == name and not one.interrupted for one in self._waiting)

    def add(self, name: str, first: int, end: int) -> None:
        """Samples ``first`` to ``end`` - 1 of utterance ``name``; without a name, of the running one."""
        if not self._waiting or self._waiting[-1].complete:
            self._waiting.append(Utterance(name, first, end))
        self._waiting[-1].extend(end)

    def extend(self, end: int) -> None:
        """The running one reaches to sample ``end`` - 1 now."""
        self._waiting[-1].extend(end)

    def interrupt(self, end: int) -> list[str]:
        """Ends all there are: none of their speech follows from sample ``end`` on.

        Returns the names of those that were not interrupted before.  One whose speech lies before ``end`` as a whole is
        among them: not all of its video has come.
        """
        names = [one.name for one in self._waiting if not one.interrupted]
        self._waiting = deque(one for one in self._waiting if one.first < end)
        for one in self._waiting:
            one.interrupt(end)
        return names

    def snapshot(self) -> list[PlacedUtterance]:
        """All of them as they are stored."""
        return [PlacedUtterance(**vars(one)) for one in self._waiting]

    def restore(self, stored: Iterable[PlacedUtterance]) -> None:
        """Makes them what ``snapshot`` was made of."""
        self._waiting = deque(
            Utterance(one.name, one.first, one.end, one.complete, one.started, one.interrupted) for one in stored
        )

    def end(self) -> None:
        """The running one is complete."""
        if self._waiting:
            self._waiting[-1].finish()

    def at(self, sample: int) -> str:
        """Name of the utterance that holds ``sample``; empty in silence."""
        return next((one.name for one in self._waiting if one.first <= sample < one.end), "")

    def begun(self, end: int) -> list[Utterance]:
        """Those that begin before sample ``end`` and of which this was not reported yet; not those that are over."""
        begun = [one for one in self._waiting if one.first < end and not one.started and not one.interrupted]
        for one in begun:
            one.start()
        return begun

    def ended(self, end: int) -> list[Utterance]:
        """Those that end by themselves at sample ``end`` or before; they are forgotten."""
        ended = []
        while self._waiting and self._waiting[0].complete and self._waiting[0].end <= end:
            one = self._waiting.popleft()
            if not one.interrupted:
                ended.append(one)
        return ended
