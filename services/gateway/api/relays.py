"""Passes calls for sessions that another gateway holds on to that one.

Knows the calls of ``AvatarService``; how gateways are reached is up to ``Holders``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog
from google.protobuf.message import Message

from live_avatar.services.gateway.relay.holder import (
    HolderLostError,
    Holders,
    gateway_lost,
    passed_on,
    session_moved,
)
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.serving.logs import session_name
from live_avatar.v1 import avatar_service_pb2 as api


class Relays:
    """Of one gateway.

    Args:
        holders: other gateways; None: calls that come from there are not passed on once more.
    """

    def __init__(self, holders: Holders | None) -> None:
        self._holders = holders
        self._log = structlog.get_logger(__name__)

    async def call(self, method: str, record: SessionRecord, request: Message, context: Any) -> Any:
        """The answer of the gateway that holds the session of ``record``; raises ServiceError."""
        holders = self._reach(record)
        try:
            return await holders.call(record.relay, method, request, passed_on(context.invocation_metadata()))
        except HolderLostError as error:
            raise self._lost(record, error) from error

    async def stream(
        self,
        record: SessionRecord,
        opening: api.StreamAvatarRequest,
        requests: AsyncIterator[api.StreamAvatarRequest],
        write: Callable[[api.StreamAvatarResponse], Awaitable[None]],
        context: Any,
    ) -> None:
        """Passes a whole stream on; raises ServiceError."""
        holders = self._reach(record)
        metadata = passed_on(context.invocation_metadata())
        try:
            await holders.stream(record.relay, opening, requests, write, metadata)
        except HolderLostError as error:
            raise self._lost(record, error) from error

    def _reach(self, record: SessionRecord) -> Holders:
        if self._holders is None or not record.relay:
            raise session_moved()
        return self._holders

    def _lost(self, record: SessionRecord, error: HolderLostError) -> Exception:
        self._log.warning("holder lost", session=session_name(record.session_id), reason=str(error))
        return gateway_lost()
