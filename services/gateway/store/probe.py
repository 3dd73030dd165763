"""Whether the session store can be used, as readiness and the log say it.

Knows the store alone.
"""

import asyncio

import structlog

from live_avatar.services.gateway.store.redis_access import STORE_REFUSED
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.serving.errors import ServiceError

_PERIOD_S = 1.0
_FAILURES = 3
"""In a row, until a store that does not answer counts as lost; one that refuses us does at once."""


class StoreProbe:
    """Writes to the store again and again; ``run`` must run while it is used.

    Args:
        store: of all sessions.
        period_s: time between two probes.
    """

    def __init__(self, store: SessionStore, period_s: float = _PERIOD_S) -> None:
        self._store = store
        self._period_s = period_s
        self._failures = _FAILURES
        self._log = structlog.get_logger(__name__)

    @property
    def works(self) -> bool:
        """The store takes what is written; False before the first probe."""
        return self._failures < _FAILURES

    async def run(self) -> None:
        """Keeps ``works`` true to what is, until cancelled; logs when the store is lost and when it is back."""
        reported = ""
        while True:
            try:
                await self._store.check()
            except ServiceError as error:
                self._failures += _FAILURES if error.reason == STORE_REFUSED else 1
                if not self.works and reported != error.reason:
                    reported = error.reason
                    self._log.error(
                        "the session store cannot be used",
                        reason=error.reason,
                        problem=error.message,
                        cause=_cause(error),
                    )
            else:
                self._failures = 0
                if reported:
                    reported = ""
                    self._log.info("the session store works again")
            await asyncio.sleep(self._period_s)


def _cause(error: ServiceError) -> str:
    """What the store itself said, in one line."""
    return " ".join(str(error.__cause__ or error.message).split())[:200]
