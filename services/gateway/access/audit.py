"""The audit: who did what to which session, and with what outcome, one record for each decision.

Knows records and how floods of equal ones are counted; ``audit_log.py`` writes the lines.  A record holds ids, codes
and addresses, and never a prompt, an image, a token or a key.
"""

import json
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from live_avatar.serving.logs import session_name

OK = "OK"
_MAX_REPEATED = 1_000
"""Kinds of decisions that are counted within one second; further ones share a record."""
_PERIOD_S = 1.0

Value = str | int | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One record."""

    action: str
    """Name of the RPC; of a stream's message as ``StreamAvatar.update``; ``SessionEnded``."""
    tenant: str = ""
    """Empty: the caller was not authenticated."""
    key_id: str = ""
    """Of the API key, which a rejected caller only claims to have, or the subject of a token."""
    peer: str = ""
    session_id: str = ""
    code: str = OK
    reason: str = ""
    about: Mapping[str, Value] = field(default_factory=dict)
    """What else the action concerns: the key that was revoked, the tenant whose quota was changed."""


class Audit:
    """Makes lines of decisions.

    Args:
        write: takes one line without its end, and must not wait.
        clock: seconds that only grow.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._repeats: dict[Hashable, tuple[Decision, int]] = {}
        self._period_began = clock()

    def record(self, decision: Decision, repeats: Hashable = None) -> None:
        """Writes ``decision``.

        Args:
            decision: what was decided.
            repeats: equal for decisions of which the first one in a second is written and the others are counted;
                None: each is written.
        """
        self.flush_repeats()
        if repeats is None:
            self._write(_line(decision))
            return
        if repeats not in self._repeats and len(self._repeats) >= _MAX_REPEATED:
            repeats, decision = None, replace(decision, peer="(others)", key_id="", session_id="", about={})
        first, count = self._repeats.get(repeats, (decision, -1))
        self._repeats[repeats] = (first, count + 1)
        if count < 0:
            self._write(_line(decision))

    def flush_repeats(self, *, at_once: bool = False) -> None:
        """Writes what was counted, when its second is over or ``at_once``."""
        now = self._clock()
        if not at_once and now - self._period_began < _PERIOD_S:
            return
        self._period_began = now
        repeats, self._repeats = self._repeats, {}
        for decision, count in repeats.values():
            if count:
                self._write(_line(decision, count))


class AuditedCall:
    """What the handler of one call adds to its record: the session, and the messages of its stream.

    Args:
        record: takes a decision of the caller; the action's name, the session.
    """

    def __init__(self, record: Callable[[str, str], None]) -> None:
        self._record = record
        self.session_id = ""
        self.request: object = None
        """Of a unary call, once it has arrived."""
        self.is_passed_on = False
        """Another gateway has the call, and records it."""

    def pass_on(self) -> None:
        """Another gateway has accepted the call."""
        self.is_passed_on = True

    def keep(self) -> None:
        """The other gateway is lost: the call is answered here."""
        self.is_passed_on = False

    def requested(self, request: object) -> None:
        """The request of a unary call has arrived."""
        self.request = request

    def opened(self, session_id: str) -> None:
        """The call's stream carries this session from now on."""
        self.session_id = session_id
        self._record("opened", session_id)

    def received(self, message: str) -> None:
        """The stream brought a message that changes the session."""
        self._record(message, self.session_id)


_CALL: ContextVar[AuditedCall | None] = ContextVar("audited_call", default=None)


def audited_call() -> AuditedCall:
    """The record of the call that this task serves; one that nobody reads where calls are not audited."""
    return _CALL.get() or AuditedCall(lambda action, session_id: None)


def set_audited_call(call: AuditedCall) -> None:
    """Names the record of the call that this task serves."""
    _CALL.set(call)


def _line(decision: Decision, repeated: int = 0) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    record: dict[str, object] = {"event": "audit", "time": now, "action": decision.action}
    if repeated:
        record["repeated"] = repeated
    record |= {"tenant": decision.tenant, "key_id": decision.key_id, "peer": decision.peer}
    if decision.session_id:
        record |= {"session_id": decision.session_id, "session": session_name(decision.session_id)}
    record |= {"code": decision.code, "reason": decision.reason}
    if decision.about:
        record["about"] = decision.about
    return json.dumps(record, ensure_ascii=False)
