"""Sessions in the making: kept from their first moment, forgotten where they fail, awaited by who asks again.

Knows store and keeper; nothing of what a session needs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog

from live_avatar.services.gateway.sessions.keeper import Keeper
from live_avatar.services.gateway.store.quotas import QuotaError
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.store.store import CREATE_FAILED, SessionStore
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

_POLL_S, _POLL_MOST_S = 0.05, 1.0
_CREATION_S = 120.0
"""How long the call that repeats a request id waits for the one that makes its session."""


class Creations:
    """The sessions that this gateway makes.

    Args:
        store: of all sessions.
        keeper: of those of this gateway.
    """

    def __init__(self, store: SessionStore, keeper: Keeper) -> None:
        self._store = store
        self._keeper = keeper
        self._making: dict[str, asyncio.Event] = {}
        self._deletions: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger(__name__)

    @asynccontextmanager
    async def making(self, record: SessionRecord) -> AsyncIterator[None]:
        """Keeps a session that the body makes; where the body fails, forgets it, in the store too."""
        made = self._making[record.session_id] = asyncio.Event()
        self._keeper.hold(record)
        try:
            yield
        except QuotaError:
            self._keeper.drop(record.session_id)  # nothing was stored
            raise
        except BaseException:
            self._keeper.drop(record.session_id)
            deletion = asyncio.create_task(self._delete(record))
            self._deletions.add(deletion)
            deletion.add_done_callback(self._deletions.discard)
            # A second cancellation ends the wait, not the work.
            await asyncio.shield(deletion)
            raise
        finally:
            made.set()
            del self._making[record.session_id]

    async def join(self, record: SessionRecord, request_hash: bytes) -> SessionRecord:
        """The session that an earlier call with the same request id makes or made.

        Args:
            record: what is stored of it.
            request_hash: of the call that comes now.

        Raises:
            ServiceError: ALREADY_EXISTS where the calls differ, ABORTED where the earlier one failed or takes too long.
        """
        if record.request_hash != request_hash:
            message = "the request id was used for another request"
            raise ServiceError(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", message, field="request_id")
        try:
            async with asyncio.timeout(_CREATION_S):
                return await self._made(record)
        except TimeoutError:
            raise create_failed("the call that is making the session takes too long") from None

    async def _made(self, record: SessionRecord) -> SessionRecord:
        poll_s, current = _POLL_S, record
        while current.state == api.Session.STATE_CREATING:
            making = self._making.get(record.session_id)
            await (making.wait() if making else asyncio.sleep(poll_s))
            poll_s = min(2 * poll_s, _POLL_MOST_S)
            found = await self._store.find(record.session_id)
            if found is None or found.state == api.Session.STATE_FAILED:
                raise create_failed("the call that was making the session failed")
            current = found
        return current

    async def _delete(self, record: SessionRecord) -> None:
        try:
            await self._store.discard(record)
        except ServiceError as error:
            # Its lease ends by itself, and whoever reaps it frees its place and its request id.
            self._log.warning("a session that was not made is still stored", reason=error.reason)


def create_failed(message: str) -> ServiceError:
    """The answer where a session was not made for no fault of the request."""
    return ServiceError(grpc.StatusCode.ABORTED, CREATE_FAILED, message, retry_after_s=_POLL_S)
