"""What the store keeps of a session, and how it looks as fields of a Redis hash.

Knows data alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from live_avatar.v1 import avatar_service_pb2 as api

_PREFIX = "live_avatar:"
OPEN_KEY = f"{_PREFIX}open"
"""Sorted set of sessions that are not over, by the end of their lease."""
OVER = (api.Session.STATE_CLOSED, api.Session.STATE_FAILED)
"""States that nothing leaves."""


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """One session as all gateways see it; times are milliseconds since 1970 by the clock of Redis."""

    session_id: str
    tenant: str
    state: int
    """A number of ``Session.State``."""
    config: bytes
    """A serialized ``SessionConfig``."""
    token_hash: bytes
    request_hash: bytes
    """Of the request that created it, so that a reused request id is told from a repeated one."""
    request_id: str
    pipeline: str
    endpoint: str
    """Address of the gateway that holds it."""
    create_ms: int = 0
    expire_ms: int = 0
    max_duration_ms: int = 0
    idle_timeout_ms: int = 0
    epoch: int = 0

    def to_fields(self) -> dict[Any, Any]:
        """As fields of a hash: names to bytes."""
        return {field.name: _to_bytes(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_fields(cls, stored: Mapping[Any, Any]) -> "SessionRecord":
        """From the fields of a hash, bytes to bytes; those of a newer version are left alone.

        Raises:
            ValueError: a field is missing or no number where one belongs.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            raw = stored.get(field.name.encode())
            if raw is None:
                raise ValueError(f"a stored session lacks {field.name}")
            values[field.name] = int(raw) if field.type is int else raw.decode() if field.type is str else raw
        return cls(**values)


def _to_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def session_key(session_id: str) -> str:
    """Hash of one session."""
    return f"{_PREFIX}session:{session_id}"


def lease_key(session_id: str) -> str:
    """Who holds a session, until it ends by itself."""
    return f"{_PREFIX}lease:{session_id}"


def request_key(tenant: str, request_id: str) -> str:
    """The session that a request id made."""
    return f"{_PREFIX}request:{tenant}:{request_id}"


def tenant_key(tenant: str) -> str:
    """Sorted set of a tenant's sessions, by their creation."""
    return f"{_PREFIX}tenant:{tenant}"


def slots_key(pipeline: str) -> str:
    """Sorted set of the sessions on a pipeline, by the end of their claim."""
    return f"{_PREFIX}slots:{pipeline}"
