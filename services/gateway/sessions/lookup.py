"""Where the session of a call is held.

Knows records and who holds them; nothing of how other gateways are reached.
"""

from collections.abc import Mapping

from live_avatar.services.gateway.refusals import expired
from live_avatar.services.gateway.sessions.failures import Failures
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.store.records import OVER, SessionRecord
from live_avatar.services.gateway.store.store import SessionStore


class HeldElsewhereError(Exception):
    """Another gateway holds the session, or did before it was lost.

    Args:
        record: of the session.
    """

    def __init__(self, record: SessionRecord) -> None:
        super().__init__(record.session_id)
        self.record = record


class Lookup:
    """Finds sessions.

    Args:
        store: of all of them.
        held: those of this gateway.
        failures: of those that it held.
    """

    def __init__(self, store: SessionStore, held: Mapping[str, Session], failures: Failures) -> None:
        self._store = store
        self._held = held
        self._failures = failures

    async def find(self, record: SessionRecord) -> Session:
        """The session of a record.

        Raises:
            ServiceError: it is over.
            HeldElsewhereError: it is not held here.
        """
        session = self._held.get(record.session_id)
        if session is not None:
            return session
        self._failures.check(record.session_id)
        holder = await self._store.holder(record.session_id)
        if holder is None:
            # It may have ended since the record was read; else its gateway is gone.
            record = await self._store.get(record.tenant, record.session_id)
        if record.state in OVER or holder == self._store.owner:
            raise expired("the session is over")
        raise HeldElsewhereError(record)
