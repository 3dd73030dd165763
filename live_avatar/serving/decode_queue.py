"""Who is served next where many wait for few decoding processes.

Callers take turns, nobody has more than half of the processes, and one process is kept for light work, so that a small
picture does not wait for large ones.  Knows numbers alone.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar


class QueueFullError(Exception):
    """Too many wait already; the message says whose."""


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
        max_waiting: of all callers.
        max_waiting_each: of one known caller.
    """

    def __init__(self, places: int, max_waiting: int, max_waiting_each: int) -> None:
        self._places = places
        self._max_waiting = max_waiting
        self._max_waiting_each = max_waiting_each
        self._waiting: OrderedDict[str, deque[SomeTicket]] = OrderedDict()
        self._served: set[SomeTicket] = set()

    @property
    def waiting(self) -> int:
        """Tickets that wait."""
        return sum(map(len, self._waiting.values()))

    def join(self, ticket: SomeTicket) -> None:
        """Raises QueueFullError where too many wait."""
        if self.waiting >= self._max_waiting:
            raise QueueFullError(f"{self._max_waiting} wait already")
        own = self._waiting.get(ticket.caller, ())
        if ticket.caller and len(own) >= self._max_waiting_each:
            raise QueueFullError(f"{self._max_waiting_each} of this caller wait already")
        self._waiting.setdefault(ticket.caller, deque()).append(ticket)

    def next(self) -> SomeTicket | None:
        """The ticket to serve now; None where none may be.  The others of its caller wait behind everybody then."""
        if len(self._served) >= self._places:
            return None
        everybody = (ticket for tickets in self._waiting.values() for ticket in tickets)
        ticket = next(filter(self._may_be_served, everybody), None)
        if ticket is not None:
            self._take(ticket)
            self._served.add(ticket)
            if ticket.caller in self._waiting:
                self._waiting.move_to_end(ticket.caller)
        return ticket

    def leave(self, ticket: SomeTicket) -> None:
        """Forgets a ticket that waits or is served.  Idempotent."""
        self._served.discard(ticket)
        if ticket in self._waiting.get(ticket.caller, ()):
            self._take(ticket)

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
