"""When sessions end by themselves: they have lasted too long, idle, are stuck, or their client does not return.

Knows sessions and clocks alone.
"""

import time

import grpc

from live_avatar.services.gateway.refusals import expired
from live_avatar.services.gateway.sessions.session import IDLE, NOTICE_S, Session
from live_avatar.serving.errors import ServiceError


def sweep(session: Session, block_deadline_s: float) -> None:
    """Warns or fails ``session`` where its time is over, or a block takes more than ``block_deadline_s`` seconds."""
    now = time.monotonic()
    end = ("MAX_DURATION", "the session has lasted as long as it may")
    _end_in_time(session, session.life_left_s(now), NOTICE_S, end)
    left_s = session.idle_left_s(now)
    if left_s is not None:
        notice_s = min(NOTICE_S, session.idle_timeout_s / 2)
        _end_in_time(session, left_s, notice_s, (IDLE, f"nothing happened for {session.idle_timeout_s} s"))
    session.fail_if_due(now)
    oldest = session.ledger.oldest_admitted_at
    if oldest is not None and now - oldest > block_deadline_s:
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        session.fail(ServiceError(code, "BLOCK_DEADLINE", f"a block took longer than {block_deadline_s} s"))


def _end_in_time(session: Session, left_s: float, notice_s: float, ended: tuple[str, str]) -> None:
    """Ends a session that has ``left_s`` seconds, ``notice_s`` after it was warned; ``ended`` is reason and message."""
    reason, message = ended
    if left_s < 0:
        session.fail(expired(message, reason))
    elif left_s < notice_s:
        session.warn(left_s, reason)
