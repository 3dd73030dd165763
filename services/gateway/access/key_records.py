"""What the store keeps of an API key, and how it looks as fields of a Redis hash.

Knows data alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from live_avatar.services.gateway.access.caller import Scope
from live_avatar.services.gateway.store.keys import key

ALL_KEYS = key("api_keys")
"""Sorted set of the ids of all keys, by their creation."""


@dataclass(frozen=True, kw_only=True)
class ApiKeyRecord:
    """One API key; times are milliseconds since 1970 by the clock of Redis, 0 where there is none."""

    key_id: str
    tenant: str
    scopes: frozenset[Scope]
    digest: bytes = field(repr=False)
    """SHA-256 of the secret."""
    name: str = ""
    create_ms: int = 0
    expire_ms: int = 0
    last_use_ms: int = 0
    revoke_ms: int = 0

    def is_dead(self, now_ms: int) -> bool:
        """Is revoked, or has expired."""
        return bool(self.revoke_ms) or 0 < self.expire_ms <= now_ms

    def to_fields(self) -> dict[Any, Any]:
        """As fields of a hash: names to bytes."""
        return {one.name: _to_bytes(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def from_fields(cls, stored: Mapping[Any, Any]) -> "ApiKeyRecord":
        """From the fields of a hash, bytes to bytes; unknown ones are left alone, and so are unknown scopes.

        Raises:
            ValueError: a field is missing or no number where one belongs.
        """
        values: dict[str, Any] = {}
        for one in fields(cls):
            raw = stored.get(one.name.encode())
            if raw is None:
                raise ValueError(f"a stored API key lacks {one.name}")
            if one.name == "scopes":
                values[one.name] = frozenset(Scope(name) for name in raw.decode().split(",") if name in set(Scope))
            else:
                values[one.name] = int(raw) if one.type is int else raw.decode() if one.type is str else raw
        return cls(**values)


def _to_bytes(value: object) -> bytes:
    if isinstance(value, frozenset):
        return ",".join(sorted(value)).encode()
    return value if isinstance(value, bytes) else str(value).encode()


def record_key(key_id: str) -> str:
    """Hash of one key."""
    return key(f"api_key:{key_id}")


def tenant_keys(tenant: str) -> str:
    """Sorted set of the ids of a tenant's keys, by their creation."""
    return key(f"api_keys:{tenant}")
