"""Who is served next where many wait for few decoding processes.

Callers take turns, nobody has more than half of the processes, and one process is kept for light work, so that a small
picture does not wait for large ones.  Knows numbers alone.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar


class QueueFullError(Exception):
    """Too many wait already."""


@dataclass(eq=False)
class Ticket:
    """A job's place in the queue."""

    caller: str
    """Who asks; empty: nobody knows."""
    light: bool
    """Takes tens of milliseconds at most."""


SomeTicket = TypeVar("SomeTicket", bound=Ticket)


class DecodeQueue(Generic[SomeTicket]):
    """Tickets that wait and tickets that are served.

    Args:
        places: tickets served at the same time.
        max_light: light tickets that may wait.
        max_heavy: others that may wait.
    """

    def __init__(self, places: int, max_light: int, max_heavy: int) -> None:
        self._places = places
        self._most = {True: max_light, False: max_heavy}
        self._waiting: OrderedDict[str, deque[SomeTicket]] = OrderedDict()
        self._served: set[SomeTicket] = set()

    @property
    def waiting(self) -> int:
        """Tickets that wait."""
        return sum(map(len, self._waiting.values()))

    def join(self, ticket: SomeTicket) -> SomeTicket | None:
        """Lets a ticket wait; where too many do, in the place of the last one of whoever has most, which is returned.

        Raises:
            QueueFullError: too many wait, and nobody has more than this caller would.
        """
        rivals = [one for one in self._all_tickets() if one.light == ticket.light]
        displaced = None
        if len(rivals) >= self._most[ticket.light]:
            counts = Counter(one.caller for one in rivals)
            greediest, most = counts.most_common(1)[0]
            if most <= counts[ticket.caller] + 1:
                raise QueueFullError(f"{len(rivals)} portraits wait already")
            displaced = [one for one in rivals if one.caller == greediest][-1]
            self._take(displaced)
        self._waiting.setdefault(ticket.caller, deque()).append(ticket)
        return displaced

    def next(self) -> SomeTicket | None:
        """The ticket to serve now; None where none may be.  The others of its caller wait behind everybody then."""
        if len(self._served) >= self._places:
            return None
        ticket = next(filter(self._may_be_served, self._all_tickets()), None)
        if ticket is not None:
            self._take(ticket)
            self._served.add(ticket)
            if ticket.caller in self._waiting:
                self._waiting.move_to_end(ticket.caller)
        return ticket

    def discard(self, ticket: SomeTicket) -> None:
        """Forgets a ticket that waits or is served.  Idempotent."""
        self._served.discard(ticket)
        if ticket in self._waiting.get(ticket.caller, ()):
            self._take(ticket)

    def _all_tickets(self) -> Iterator[SomeTicket]:
        return (ticket for tickets in self._waiting.values() for ticket in tickets)

    def _take(self, ticket: SomeTicket) -> None:
        self._waiting[ticket.caller].remove(ticket)
        if not self._waiting[ticket.caller]:
            del self._waiting[ticket.caller]

    def _may_be_served(self, ticket: SomeTicket) -> bool:
        heavy = sum(not served.light for served in self._served)
        if not ticket.light and heavy >= max(1, self._places - 1):
            return False
        own = Counter(served.caller for served in self._served)[ticket.caller]
        return not ticket.caller or own < max(1, self._places // 2)
