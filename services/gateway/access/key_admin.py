"""Who may create, see and revoke which API keys.

Knows callers and the store of keys; nothing of messages.
"""

import re
from collections.abc import Collection, Sequence

import grpc

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.caller import TENANT_PATTERN, Caller, Scope, parse_scopes
from live_avatar.services.gateway.access.key_cache import KeyCache
from live_avatar.services.gateway.access.key_records import ApiKeyRecord
from live_avatar.services.gateway.access.key_store import ApiKeyStore
from live_avatar.serving.errors import ServiceError

ALL_TENANTS = "*"
"""In place of a tenant, for callers of the operator's tenant."""
_INVALID = grpc.StatusCode.INVALID_ARGUMENT


class KeyAdmin:
    """Manages API keys for callers with the scope ``admin``; every method raises ServiceError.

    Args:
        store: of all keys.
        cache: of this gateway, which forgets a key that is revoked here; None: it accepts none.
    """

    def __init__(self, store: ApiKeyStore, cache: KeyCache | None) -> None:
        self._store = store
        self._cache = cache

    async def create(
        self, caller: Caller, tenant: str, scopes: Collection[str], name: str, lifetime_ms: int
    ) -> tuple[ApiKeyRecord, ApiKey]:
        """A new key; returns it as it is stored, and with its secret.

        Args:
            caller: who creates it.
            tenant: whose it is; empty: the caller's.
            scopes: what it may do, by name.
            name: for people.
            lifetime_ms: how long it works; 0: until it is revoked.
        """
        tenant = caller.tenant_of(tenant)
        if not re.fullmatch(TENANT_PATTERN, tenant):
            message = "a tenant has 1 to 63 characters of a-z, 0-9 and -"
            raise ServiceError(_INVALID, "TENANT_INVALID", message, field="tenant")
        if not name.isprintable():
            raise ServiceError(_INVALID, "NAME_UNPRINTABLE", "a name has printable characters alone", field="name")
        granted = _granted(caller, scopes)
        key = ApiKey.generate()
        record = ApiKeyRecord(key_id=key.key_id, tenant=tenant, scopes=granted, digest=key.digest, name=name)
        return await self._store.create(record, lifetime_ms), key

    async def list_page(
        self, caller: Caller, tenant: str, size: int, before: str
    ) -> tuple[Sequence[ApiKeyRecord], bool]:
        """Keys of a tenant, or of ``ALL_TENANTS``; see ``ApiKeyStore.list_page``."""
        tenant = caller.tenant_of(tenant)
        return await self._store.list_page(None if tenant == ALL_TENANTS else tenant, size, before)

    async def revoke(self, caller: Caller, key_id: str) -> ApiKeyRecord:
        """Ends a key; idempotent.  Another tenant's key does not exist for callers that are not the operator's."""
        record, _ = await self._store.read(key_id)
        if record is None or not (caller.is_operator or record.tenant == caller.tenant):
            raise _key_not_found()
        revoked = await self._store.revoke(key_id)
        if revoked is None:
            raise _key_not_found()
        if self._cache is not None:
            self._cache.forget(key_id)
        return revoked


def _granted(caller: Caller, names: Collection[str]) -> frozenset[Scope]:
    """The scopes of those names; raises ServiceError where the caller may not grant them."""
    known = ", ".join(Scope)
    try:
        scopes = parse_scopes(names)
    except ValueError:
        message = f"a scope is one of {known}"
        raise ServiceError(_INVALID, "SCOPES_INVALID", message, field="scopes") from None
    if not scopes:
        raise ServiceError(_INVALID, "SCOPES_INVALID", f"a key needs a scope: {known}", field="scopes")
    for scope in () if caller.is_operator else sorted(scopes):
        caller.require(scope)
    return scopes


def _key_not_found() -> ServiceError:
    code = grpc.StatusCode.NOT_FOUND
    return ServiceError(code, "API_KEY_NOT_FOUND", "there is no such API key", field="key_id")
