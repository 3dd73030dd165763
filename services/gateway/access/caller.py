"""The caller of an RPC: its tenant, what identifies it, and what it may do.

Knows data alone; credentials become callers in ``authenticator.py``.
"""

from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

import grpc

from live_avatar.serving.errors import ServiceError

DEFAULT_TENANT = "default"
"""Tenant of all callers where nobody is authenticated, and of the operator unless the settings name another."""
TENANT_PATTERN = r"^[a-z0-9-]{1,63}$"
"""Names of tenants: they are parts of keys in the store."""


class Scope(StrEnum):
    """What a caller may do."""

    SESSIONS = "sessions"
    """Create, use and end sessions of its tenant."""
    AVATARS = "avatars"
    """Manage stored avatars of its tenant."""
    USAGE = "usage"
    """Read usage records of its tenant."""
    ADMIN = "admin"
    """Manage API keys and quotas."""


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The author of one RPC."""

    tenant: str
    key_id: str = ""
    """Of the API key, or the subject of the OIDC token; empty: not authenticated."""
    scopes: frozenset[Scope] = field(default=frozenset())
    is_operator: bool = False
    """Belongs to the operator's tenant: may act for any tenant where its scopes allow the act itself."""
    peer: str = ""
    """Network address without its port."""

    def require(self, scope: Scope) -> None:
        """Returns where the caller has ``scope``; raises ServiceError PERMISSION_DENIED/SCOPE_MISSING otherwise."""
        if scope not in self.scopes:
            code = grpc.StatusCode.PERMISSION_DENIED
            raise ServiceError(code, "SCOPE_MISSING", f"this call needs the scope {scope}", {"scope": scope})

    def tenant_of(self, requested: str) -> str:
        """The tenant that a request is about, where it names one; empty: the caller's own.

        Raises:
            ServiceError: PERMISSION_DENIED/TENANT_FORBIDDEN; it is another one, and the caller is not the operator.
        """
        if requested in ("", self.tenant) or self.is_operator:
            return requested or self.tenant
        code = grpc.StatusCode.PERMISSION_DENIED
        raise ServiceError(code, "TENANT_FORBIDDEN", "callers act for their own tenant alone", field="tenant")


ANONYMOUS = Caller(tenant=DEFAULT_TENANT, scopes=ALL_SCOPES, is_operator=True)
"""Every caller, where callers are not authenticated."""

TOKEN_HOLDER = Caller(tenant="")
"""Who calls without a credential where a session token is one; has a tenant once the token is checked."""

_CALLER: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """The caller of the RPC that this task serves."""
    return _CALLER.get()


def set_caller(caller: Caller) -> None:
    """Names the caller of the RPC that this task serves, for everything that the task does afterwards."""
    _CALLER.set(caller)


def parse_scopes(names: Collection[str]) -> frozenset[Scope]:
    """Scopes by their names.

    Raises:
        ValueError: there is none of a name.
    """
    return frozenset(map(Scope, names))
