"""Where the session of a call is held.

Knows records and who holds them; nothing of how other gateways are reached.
"""

from collections import OrderedDict
from collections.abc import Mapping

import grpc

from live_avatar.services.gateway.refusals import expired
from live_avatar.services.gateway.sessions.failures import Failures
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.store.records import OVER, SessionRecord
from live_avatar.services.gateway.store.store import GATEWAY_LOST, SessionStore
from live_avatar.serving.errors import ServiceError

_LOST_KEPT = 10_000


class HeldElsewhereError(Exception):
    """Another gateway holds the session, or did before it was lost.

    Args:
        record: of the session.
        holder: name of that gateway in leases; empty: no lease is left.
    """

    def __init__(self, record: SessionRecord, holder: str) -> None:
        super().__init__(record.session_id)
        self.record = record
        self.holder = holder

    @property
    def place(self) -> tuple[int, str]:
        """Epoch and address of the gateway, which change where the session moves."""
        return self.record.epoch, self.record.relay


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
        self._lost: OrderedDict[str, int] = OrderedDict()
        """Sessions whose gateway did not answer, with the epoch in which that was."""

    def held(self, tenant: str, session_id: str) -> Session | None:
        """The tenant's session, without a question to the store; None where it is not held here."""
        session = self._held.get(session_id)
        return session if session is not None and session.record.tenant == tenant else None

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
        # It may have ended or moved since the record was read.
        record = await self._store.get(record.tenant, record.session_id)
        if record.state in OVER or holder == self._store.owner:
            raise expired("the session is over")
        raise HeldElsewhereError(record, holder or "")

    async def check_not_elsewhere(self, record: SessionRecord) -> None:
        """Raises HeldElsewhereError where another gateway holds the session, and can be called."""
        if record.state in OVER or not record.relay or record.session_id in self._held:
            return
        holder = await self._store.holder(record.session_id)
        if holder != self._store.owner:
            raise HeldElsewhereError(record, holder or "")

    def note_lost(self, record: SessionRecord) -> None:
        """The gateway that holds the session of ``record`` does not answer."""
        self._lost[record.session_id] = record.epoch
        if len(self._lost) > _LOST_KEPT:
            self._lost.popitem(last=False)

    async def left_by(self, record: SessionRecord) -> str | None:
        """The gateway that has lost the session of ``record``, empty where its lease has ended; None: none has."""
        is_lost = self._lost.get(record.session_id) == record.epoch
        if not is_lost or record.session_id in self._held or record.state in OVER:
            return None
        holder = await self._store.holder(record.session_id)
        return None if holder == self._store.owner else holder or ""


def gateway_lost(message: str = "the gateway that holds the session does not answer") -> ServiceError:
    """The answer where the gateway that holds the session is lost."""
    return ServiceError(grpc.StatusCode.UNAVAILABLE, GATEWAY_LOST, message, retry_after_s=1.0)
