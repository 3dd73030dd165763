"""Barge-ins of one live session, by either door: each is done once and reported where something was dropped.

Knows the rules of who may repeat what; the speech drops itself.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from live_avatar.gateway.v1.recovery_point_pb2 import BargeInState, DoneInterruption
from live_avatar.services.gateway.audio.live_speech import LiveSpeech
from live_avatar.services.gateway.refusals import INVALID, MESSAGE_OUT_OF_ORDER, PRECONDITION
from live_avatar.services.gateway.sessions.events import EventQueue, Interruption
from live_avatar.serving.errors import ServiceError
from live_avatar.streaming.pacing import NS_PER_S

UTTERANCE_OVER = "UTTERANCE_OVER"
REMIND_AFTER_S = 2.0
"""How long speech of an interrupted utterance may come before its client is reminded."""
_KEPT = 64
_HOW = "begin a new utterance with sample_offset 0 or a new utterance_id"


class BargeIns:
    """See the module.

    Args:
        speech: what is interrupted.
        played_ns: media time that is played at a time of the monotonic clock.
        events: where the client learns of it.
        most_s: seconds of an interrupted utterance that may still come.
    """

    def __init__(self, speech: LiveSpeech, played_ns: Callable[[int], int], events: EventQueue, most_s: int) -> None:
        self._speech = speech
        self._played_ns = played_ns
        self._events = events
        self._most_s = most_s
        self._done: OrderedDict[str, Interruption] = OrderedDict()
        self._names: list[str] = []
        self._remind_ns: int | None = None

    def interrupt(self, utterance_id: str, request_id: str, admitted: int, *, in_order: bool) -> Interruption:
        """Drops all speech that has not been admitted.  Idempotent on ``request_id``.

        Args:
            utterance_id: drops nothing where this one is over already; empty: any.
            request_id: of the call; empty: a new one.
            admitted: blocks admitted so far.
            in_order: the request came on the stream: the speech before it is meant, even where the call came first.
        """
        done = self._done.get(request_id) if request_id else None
        if done is not None and not (in_order and self._speech.is_speaking):
            return done
        now_ns = time.monotonic_ns()
        new = Interruption(played_ns=self._played_ns(now_ns), first_clean=admitted)
        drops = not utterance_id or self._speech.knows(utterance_id)
        names = self._speech.drop(admitted) if drops else []
        if drops:
            self._names, self._remind_ns = names, now_ns + int(REMIND_AFTER_S * NS_PER_S)
        if request_id and done is None:
            self._remember(request_id, new)
        self._events.interrupted(names, new, drops=drops)
        return done or new

    def watch(self, admitted: int) -> None:
        """Looks at a piece of speech that has just come: whether it was dropped, and for how long that goes on.

        Raises:
            ServiceError: INVALID_ARGUMENT; too much of an interrupted utterance came.
        """
        speech = self._speech
        if speech.dropped_samples > self._most_s * speech.rate_hz:
            message = f"the utterance was interrupted, and {self._most_s} s more of it came; {_HOW}"
            raise ServiceError(INVALID, MESSAGE_OUT_OF_ORDER, message, field="audio_chunk.sample_offset")
        now_ns = time.monotonic_ns()
        if speech.dropped_samples and self._remind_ns is not None and now_ns >= self._remind_ns:
            self._remind_ns = None
            at = Interruption(played_ns=self._played_ns(now_ns), first_clean=admitted)
            message = f"speech of an interrupted utterance is dropped; {_HOW}"
            problem = ServiceError(PRECONDITION, UTTERANCE_OVER, message)
            self._events.interrupted(self._names[-1:], at, drops=True, problem=problem)

    def snapshot(self, now_ns: int) -> BargeInState:
        """As it is stored."""
        return BargeInState(
            done=[
                DoneInterruption(request_id=name, played_ns=one.played_ns, first_clean=one.first_clean)
                for name, one in self._done.items()
            ],
            names=self._names,
            reminds=self._remind_ns is not None,
            remind_in_ns=0 if self._remind_ns is None else self._remind_ns - now_ns,
        )

    def restore(self, stored: BargeInState, now_ns: int) -> None:
        """Makes it what ``snapshot`` was made of."""
        self._done = OrderedDict(
            (one.request_id, Interruption(played_ns=one.played_ns, first_clean=one.first_clean)) for one in stored.done
        )
        self._names = list(stored.names)
        self._remind_ns = now_ns + stored.remind_in_ns if stored.reminds else None

    def _remember(self, request_id: str, done: Interruption) -> None:
        self._done[request_id] = done
        if len(self._done) > _KEPT:
            self._done.popitem(last=False)
