"""What is to be stored of one session: the newest state, and what came since the one before.

Knows a session and what was stored of it; nothing of stores.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from live_avatar.gateway.v1.recovery_point_pb2 import SessionState
from live_avatar.services.gateway.audio.sample_log import SampleLog
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.sessions.snapshot import needed_in, needed_out, snapshot
from live_avatar.services.gateway.sessions.stored_point import FINISHED, MODEL, OUT, OWN_SINK, SINK, STATE
from live_avatar.services.gateway.store.points import PointWrite


@dataclass(frozen=True)
class _Field:
    """A field that is stored."""

    size: int
    kind: str
    end: int
    """Of samples: position after the last; of a finished block: the block after it; of a state: its block."""


@dataclass(frozen=True)
class _State:
    """What a stored state needs of other fields."""

    block: int
    client_sequence: int
    first_out: int
    first_in: int


class PointSource:
    """Of one live session.

    Args:
        session: whose it is.
        most_states: blocks before the newest from which another gateway can go on.
        most_bytes: of all that is stored.
        stale: names of fields that are stored of the session by another gateway.
    """

    def __init__(self, session: Session, most_states: int, most_bytes: int, stale: Iterable[str] = ()) -> None:
        self.session = session
        self._most_states = most_states
        self._most_bytes = most_bytes
        self._stale = set(stale)
        self._pending: SessionState | None = None
        self._states: deque[_State] = deque()
        self._fields: dict[str, _Field] = {}
        self._out_end = self._in_end = 0
        self._safe: tuple[int, int] | None = None
        self.is_off = False
        """Nothing of the session is stored any more."""
        self._speech = session.live.speech
        self._speech.log_out.keep()
        self._speech.log_in.keep()

    @property
    def safe(self) -> tuple[int, int] | None:
        """The newest block from which the client can go on, and the client sequence there; None: there is none yet."""
        return self._safe

    @property
    def is_stored(self) -> bool:
        """Another gateway can go on from some block."""
        return bool(self._states) and not self.is_off

    def sequence_of(self, block: int) -> int | None:
        """The client sequence of the stored state before ``block``; None: it is not stored."""
        return next((one.client_sequence for one in self._states if one.block == block), None)

    def note(self) -> None:
        """The session is between two blocks: it is to be stored as it is now."""
        state = self._pending = snapshot(self.session)
        self._speech.log_out.forget(needed_out(state))
        self._speech.log_in.forget(needed_in(state))
        if self.is_off:
            self.release(state)

    def release(self, state: SessionState) -> None:
        """The client can go on from ``state``."""
        self._safe = (state.block, state.client_sequence)
        self.session.changed.notify()

    def turn_off(self) -> None:
        """Nothing is stored from now on, and what was is deleted with the session."""
        self.is_off = True

    def build(self) -> PointWrite | None:
        """What is to be written now; None: nothing.  ``written`` or ``failed`` follows."""
        state, self._pending = self._pending, None
        if state is None or self.is_off:
            return None
        new = dict(self._new_fields(state))
        states, fields = self._kept(state, new)
        removed = (self._fields.keys() | self._stale) - fields.keys() - new.keys()
        if sum(one.size for one in fields.values()) > self._most_bytes:
            self.turn_off()
            self.release(state)
            return None
        record = self.session.record
        return PointWrite(record.session_id, record.point_epoch, new, tuple(removed), state, (states, fields))

    def written(self, write: PointWrite) -> None:
        """A write is stored."""
        self._states, self._fields = write.after
        self._stale.clear()
        speech = write.state.speech
        self._out_end, self._in_end = speech.out_end, speech.in_end
        self._speech.log_out.forget(speech.out_end)
        self._speech.log_in.forget(speech.in_end)
        self.release(write.state)

    def failed(self, write: PointWrite) -> None:
        """A write is not stored; until the store is back, the session can go on here alone."""
        if self._pending is None:
            self._pending = write.state
        self.release(self._pending)

    def _new_fields(self, state: SessionState) -> Iterator[tuple[str, bytes]]:
        session, conditioning = self.session, self.session.conditioning
        yield f"{STATE}{state.block}", state.SerializeToString()
        if SINK not in self._fields:
            yield SINK, conditioning.first_sink
        if state.conditioning.has_own_sink and OWN_SINK not in self._fields:
            yield OWN_SINK, conditioning.own_sink
        for index in range(max(0, state.block - self._window), state.block):
            if f"{FINISHED}{index}" not in self._fields and session.finished_blocks.has(index):
                yield f"{FINISHED}{index}", session.finished_blocks.data(index)
        yield from _piece(OUT, self._speech.log_out, self._out_end, state.speech.out_end)
        yield from _piece(MODEL, self._speech.log_in, self._in_end, state.speech.in_end)

    def _kept(self, state: SessionState, new: dict[str, bytes]) -> tuple[deque[_State], dict[str, _Field]]:
        """States and fields that are stored once ``new`` is."""
        states = deque(self._states)
        states.append(_State(state.block, state.client_sequence, needed_out(state), needed_in(state)))
        fields = self._fields | {name: _field(name, data, state) for name, data in new.items()}
        while states[0].block < state.block - self._most_states:
            states.popleft()
        fields = self._needed(fields, states)
        while len(states) > 1 and sum(one.size for one in fields.values()) > self._most_bytes:
            states.popleft()
            fields = self._needed(fields, states)
        return states, fields

    def _needed(self, fields: dict[str, _Field], states: deque[_State]) -> dict[str, _Field]:
        blocks = {one.block for one in states}
        first = {
            OUT: min(one.first_out for one in states),
            MODEL: min(one.first_in for one in states),
            FINISHED: states[0].block - self._window,
        }
        return {
            name: one
            for name, one in fields.items()
            if (one.end in blocks if one.kind == STATE else one.kind not in first or one.end > first[one.kind])
        }

    @property
    def _window(self) -> int:
        return self.session.preset.stream.window_blocks


def _piece(kind: str, log: SampleLog, first: int, end: int) -> Iterator[tuple[str, bytes]]:
    first, data = log.read(first, end)
    if data:
        yield f"{kind}{first}", data


def _field(name: str, data: bytes, state: SessionState) -> _Field:
    ends = {STATE: state.block, OUT: state.speech.out_end, MODEL: state.speech.in_end}
    if name in (SINK, OWN_SINK):
        return _Field(len(data), name, 0)
    kind = name[0]
    return _Field(len(data), kind, int(name[1:]) + 1 if kind == FINISHED else ends[kind])
