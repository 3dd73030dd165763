"""Which credential and scope each RPC needs.

Plain data; what is not in it may not be called.
"""

from collections.abc import Mapping
from enum import Enum

from live_avatar.services.gateway.access.caller import Scope


class Rule(Enum):
    """What a method needs other than a scope."""

    OPEN = "open"
    """Nothing: nobody is authenticated."""
    CREDENTIAL = "credential"
    """A credential with whatever scopes."""
    SESSION_TOKEN = "session token"
    """The session token of its first message; a credential that comes with it must be of the same tenant."""


_AVATAR, _ADMIN, _USAGE = (f"/live_avatar.v1.{name}Service/" for name in ("Avatar", "Admin", "Usage"))

METHODS: Mapping[str, Scope | Rule] = {
    f"{_AVATAR}CreateSession": Scope.SESSIONS,
    f"{_AVATAR}GetSession": Scope.SESSIONS,
    f"{_AVATAR}ListSessions": Scope.SESSIONS,
    f"{_AVATAR}UpdateSession": Scope.SESSIONS,
    f"{_AVATAR}InterruptSession": Scope.SESSIONS,
    f"{_AVATAR}CloseSession": Scope.SESSIONS,
    f"{_AVATAR}StreamAvatar": Rule.SESSION_TOKEN,
    f"{_AVATAR}GetServerInfo": Rule.CREDENTIAL,
    f"{_ADMIN}CreateApiKey": Scope.ADMIN,
    f"{_ADMIN}ListApiKeys": Scope.ADMIN,
    f"{_ADMIN}RevokeApiKey": Scope.ADMIN,
    f"{_ADMIN}GetQuotas": Scope.ADMIN,
    f"{_ADMIN}UpdateQuotas": Scope.ADMIN,
    f"{_USAGE}ListUsage": Scope.USAGE,
}
"""Every RPC of the public API."""
SERVICES: Mapping[str, Rule] = {
    "grpc.health.v1.Health": Rule.OPEN,
    "grpc.reflection.v1alpha.ServerReflection": Rule.CREDENTIAL,
}
"""Services of gRPC's own, all methods of each."""


def rule_of(method: str) -> Scope | Rule | None:
    """What a full method name, ``/package.Service/Method``, needs; None: nobody may call it."""
    return METHODS.get(method) or SERVICES.get(method.removeprefix("/").rpartition("/")[0])
