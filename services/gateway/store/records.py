"""What the store keeps of a session, and how it looks as fields of a Redis hash.

Knows data alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from live_avatar.services.gateway.store.keys import key
from live_avatar.v1 import avatar_service_pb2 as api

PROBE_KEY = key("probe")
"""Is written to find out whether that is possible."""
OPEN_KEY = key("open")
"""Sorted set of sessions that are not over, by the end of their lease."""
_LATER = "later"
"""Marks fields that gateways of older versions do not write."""
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
    request_hash: bytes
    """Of the request that created it, so that a reused request id differs from a repeated one."""
    request_id: str
    pipeline: str
    endpoint: str
    """Address of the gateway that holds it."""
    create_ms: int = 0
    expire_ms: int = 0
    max_duration_ms: int = 0
    idle_timeout_ms: int = 0
    epoch: int = 0
    end_reason: str = field(default="", metadata={_LATER: True})
    """Why it is over, as in errors; empty where it ended as asked."""
    key_id: str = field(default="", metadata={_LATER: True})
    """Identifies the caller that created it within its tenant; empty: callers are not authenticated."""
    token_hash: bytes = field(default=b"", metadata={_LATER: True})
    """Always empty: gateways of older versions do not read a session without it."""
    preset: str = field(default="", metadata={_LATER: True})
    """Of its pipeline, once it has one."""
    provenance: bytes = field(default=b"", metadata={_LATER: True})
    """A serialized ``Session.Provenance``, once it has a pipeline."""
    point_epoch: int = field(default=0, metadata={_LATER: True})
    """In which its gateway took it, and under which that stores its recovery point; 0: there is none."""
    resume_ms: int = field(default=0, metadata={_LATER: True})
    """How long its place is kept after its lease, since another gateway can go on with it."""

    relay: str = field(default="", metadata={_LATER: True})
    """Address at which other gateways reach the one that holds it; empty: at none."""

    def to_fields(self) -> dict[Any, Any]:
        """As fields of a hash: names to bytes."""
        return {one.name: _to_bytes(getattr(self, one.name)) for one in fields(self)}

    @classmethod
    def from_fields(cls, stored: Mapping[Any, Any]) -> "SessionRecord":
        """From the fields of a hash, bytes to bytes; unknown ones are left alone, later ones may be missing.

        Raises:
            ValueError: a field is missing or no number where one belongs.
        """
        values: dict[str, Any] = {}
        for one in fields(cls):
            raw = stored.get(one.name.encode())
            if raw is not None:
                values[one.name] = int(raw) if one.type is int else raw.decode() if one.type is str else raw
            elif not one.metadata.get(_LATER):
                raise ValueError(f"a stored session lacks {one.name}")
        return cls(**values)


def _to_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def session_key(session_id: str) -> str:
    """Hash of one session."""
    return key(f"session:{session_id}")


def lease_key(session_id: str) -> str:
    """Who holds a session, until it ends by itself."""
    return key(f"lease:{session_id}")


def point_key(session_id: str, epoch: int) -> str:
    """Hash of what another gateway needs to go on with a session, by the one that took it in ``epoch``."""
    return key(f"point:{session_id}:{epoch}")


def request_key(tenant: str, request_id: str) -> str:
    """The session that a request id made."""
    return key(f"request:{tenant}:{request_id}")


def tenant_key(tenant: str) -> str:
    """Sorted set of a tenant's sessions, by their creation."""
    return key(f"tenant:{tenant}")


def slots_key(pipeline: str) -> str:
    """Sorted set of the sessions on a pipeline, by the end of their claim."""
    return key(f"slots:{pipeline}")


def claims_key(pipeline: str) -> str:
    """Changes with every new session on a pipeline, and with nothing else."""
    return key(f"claims:{pipeline}")


def lease_value(owner: str, epoch: int) -> bytes:
    """The value of a lease: which gateway holds the session, and in which epoch."""
    return f"{owner}:{epoch}".encode()


class LeaseLostError(Exception):
    """The session is not, or no longer, ours.

    Args:
        session_id: of which session.
        record: as it is stored now; None where it is gone.
    """

    def __init__(self, session_id: str, record: SessionRecord | None) -> None:
        super().__init__(session_id)
        self.record = record
