"""Management of API keys on a gateway.

Knows the admin calls; nothing of sessions.
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from live_avatar.client.channel import ApiKeySource, open_channel
from live_avatar.client.client import CALL_TIMEOUT_S, typed_errors
from live_avatar.v1 import admin_service_pb2 as api
from live_avatar.v1.admin_service_pb2_grpc import AdminServiceStub

_PAGE = 200


@dataclass(frozen=True, kw_only=True)
class ApiKeyInfo:
    """An API key without its secret; a time that is None is absent."""

    key_id: str
    tenant: str
    scopes: tuple[str, ...]
    name: str
    create_time: datetime | None
    expire_time: datetime | None
    last_use_time: datetime | None
    revoke_time: datetime | None


class AdminClient:
    """The admin calls of a gateway; an async context manager.  Calls raise AvatarError.

    Args:
        target: address as host:port; see ``parse_target`` for what else is taken.
        credentials: for TLS; None: plain text.
        api_key: one with the scope ``admin``, or what returns the current one.
        insecure: send ``api_key`` in plain text to other machines too.

    Raises:
        ValueError: ``target`` is no address, or ``api_key`` would cross a network in plain text.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        api_key: ApiKeySource | None = None,
        insecure: bool = False,
    ) -> None:
        self.target, self._channel = open_channel(target, credentials, api_key, insecure=insecure)
        self._stub = AdminServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()

    async def create_key(
        self, scopes: Collection[str], *, tenant: str = "", name: str = "", lifetime: timedelta | None = None
    ) -> tuple[ApiKeyInfo, str]:
        """Creates an API key; returns it, and the key itself with its secret, which cannot be read again.

        Args:
            scopes: what it may do: ``sessions``, ``avatars``, ``usage``, ``admin``.
            tenant: whose it is; empty: the caller's.
            name: for people.
            lifetime: how long it works; None: until it is revoked.
        """
        request = api.CreateApiKeyRequest(tenant=tenant, scopes=list(scopes), name=name)
        if lifetime is not None:
            request.lifetime.FromTimedelta(lifetime)
        with typed_errors(self.target):
            response = await self._stub.CreateApiKey(request, timeout=CALL_TIMEOUT_S)
        return _info(response.api_key), response.secret

    async def keys(self, tenant: str = "") -> AsyncIterator[ApiKeyInfo]:
        """All keys of a tenant, newest first; empty: the caller's; ``*``: of all tenants, for the operator."""
        page_token = ""
        while True:
            request = api.ListApiKeysRequest(tenant=tenant, page_size=_PAGE, page_token=page_token)
            with typed_errors(self.target):
                response = await self._stub.ListApiKeys(request, timeout=CALL_TIMEOUT_S)
            for key in response.api_keys:
                yield _info(key)
            page_token = response.next_page_token
            if not page_token:
                return

    async def revoke_key(self, key_id: str) -> ApiKeyInfo:
        """Revokes a key; every gateway rejects it within 5 s.  Idempotent."""
        with typed_errors(self.target):
            response = await self._stub.RevokeApiKey(api.RevokeApiKeyRequest(key_id=key_id), timeout=CALL_TIMEOUT_S)
        return _info(response.api_key)


def _info(key: api.ApiKey) -> ApiKeyInfo:
    def time_of(name: str) -> datetime | None:
        value: Timestamp = getattr(key, name)
        return value.ToDatetime(UTC) if key.HasField(name) else None  # type: ignore[arg-type]

    return ApiKeyInfo(
        key_id=key.key_id,
        tenant=key.tenant,
        scopes=tuple(key.scopes),
        name=key.name,
        create_time=time_of("create_time"),
        expire_time=time_of("expire_time"),
        last_use_time=time_of("last_use_time"),
        revoke_time=time_of("revoke_time"),
    )
