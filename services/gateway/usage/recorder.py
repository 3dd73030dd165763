"""Writes usage records of the sessions that run, and ends those whose tenant has used up its media.

What the store does not take is in a later record: sessions count totals, the store the differences.  Knows the store
and quotas; nothing of streams.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from live_avatar.services.gateway.store.quotas import Quotas, over
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.store.usage import Amounts, UsageLog
from live_avatar.serving.errors import ServiceError

_TRIM_S = 600.0
_AT_ONCE = 8
"""Records that are written at the same time."""
_LEAST_TICK_S, _MOST_TICK_S = 0.05, 5.0


class Metered(Protocol):
    """A session whose use is recorded."""

    record: SessionRecord

    @property
    def used(self) -> Amounts:
        """All that it has used so far."""

    def end_with_notice(self, error: ServiceError) -> None:
        """Announces to the client that the session ends, and ends it a little later."""


@dataclass(frozen=True, kw_only=True)
class RecordingRules:
    """How often records are written, and how long they are kept."""

    interval_s: float = 60.0
    retention_ms: int = 90 * 24 * 3600 * 1000


class UsageRecorder:
    """Records the use of the sessions of this gateway while they run; ``run`` must run while it is used.

    Args:
        log: of all sessions.
        quotas_of: finds the quotas of a tenant.
        rules: of the operator.
        report_backlog: called with the number of sessions of which a record is late.
    """

    def __init__(
        self,
        log: UsageLog,
        quotas_of: Callable[[str], Awaitable[Quotas]],
        rules: RecordingRules,
        report_backlog: Callable[[int], None],
    ) -> None:
        self._log_of_usage = log
        self._quotas_of = quotas_of
        self._rules = rules
        self._report_backlog = report_backlog
        self._sessions: dict[str, tuple[float, Metered]] = {}
        """With the time at which the next record is due."""
        self._works = True
        self._log = structlog.get_logger(__name__)

    def add(self, session: Metered) -> None:
        """Records the use of a session from now on."""
        self._sessions[session.record.session_id] = (time.monotonic() + self._rules.interval_s, session)

    def drop(self, session_id: str) -> None:
        """Records no more.  Idempotent."""
        self._sessions.pop(session_id, None)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._record_all())
            tasks.create_task(self._trim_all())

    async def _record_all(self) -> None:
        tick_s = min(max(self._rules.interval_s / 10, _LEAST_TICK_S), _MOST_TICK_S)
        while True:
            await asyncio.sleep(tick_s)
            due = self._due()
            for first in range(0, len(due), _AT_ONCE):
                if not await self._record_some(due[first : first + _AT_ONCE]):
                    break
            self._report_backlog(len(self._due()))

    def _due(self) -> Sequence[Metered]:
        """Sessions of which a record is due."""
        now = time.monotonic()
        return [session for due_at, session in self._sessions.values() if due_at <= now]

    async def _record_some(self, sessions: Sequence[Metered]) -> bool:
        """Writes a record of each; returns whether the store works."""
        outcomes = await asyncio.gather(*map(self._record, sessions))
        failed = [error for error in outcomes if error is not None]
        self._note(failed[0] if failed else None)
        return not failed

    async def _record(self, session: Metered) -> ServiceError | None:
        """Writes a record of one; returns why that was not possible."""
        name, tenant = session.record.session_id, session.record.tenant
        try:
            media = await self._log_of_usage.record(session.record, session.used)
            broken = over(tenant, media, await self._quotas_of(tenant), _now_ms()) if media is not None else None
        except ServiceError as error:
            return error
        if name in self._sessions:
            self._sessions[name] = (time.monotonic() + self._rules.interval_s, session)
        if broken is not None:
            session.end_with_notice(broken)
        return None

    def _note(self, error: ServiceError | None) -> None:
        """Logs when the store fails and when it is back."""
        if error is not None and self._works:
            self._log.warning("usage records wait for the session store", reason=error.reason)
        elif error is None and not self._works:
            self._log.info("usage is recorded again")
        self._works = error is None

    async def _trim_all(self) -> None:
        """Drops old records again and again."""
        while True:
            try:
                await self._log_of_usage.trim(self._rules.retention_ms)
            except ServiceError as error:
                self._log.warning("old usage records were not dropped", reason=error.reason)
            await asyncio.sleep(_TRIM_S)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
