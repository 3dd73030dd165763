"""Settings of how callers are authenticated."""

from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.caller import DEFAULT_TENANT, TENANT_PATTERN
from live_avatar.services.gateway.access.oidc_settings import OidcSettings
from live_avatar.serving.settings import CommaSeparated, Group


class AuthMode(StrEnum):
    """Which credentials are accepted."""

    NONE = "none"
    """Nobody is authenticated."""
    KEYS = "keys"
    """API keys."""
    OIDC = "oidc"
    """Tokens of an OpenID Connect provider."""


Tenant = Annotated[str, Field(pattern=TENANT_PATTERN)]


class AuthSettings(Group):
    """How callers are authenticated."""

    mode: CommaSeparated[AuthMode] = Field(
        default=(),
        description="credentials that are accepted: keys, oidc, both with a comma between, or none; "
        "unset: none on a loopback address, and no start on any other",
    )
    insecure: bool = Field(default=False, description="allow mode none on an address that other machines reach")
    operator_tenant: Tenant = Field(
        default=DEFAULT_TENANT, description="tenant whose callers may act for all tenants, as far as their scopes allow"
    )
    bootstrap_key: SecretStr | None = Field(
        default=None,
        description="an API key of the operator's tenant with all scopes, as la_<id>_<secret>, that works without "
        "being stored; create the other keys with it",
    )
    max_failures_per_minute: int = Field(
        default=300,
        ge=1,
        le=1_000_000,
        description="credentials that are not valid and come from one address before further unknown ones are rejected "
        "unchecked",
    )

    oidc: OidcSettings = OidcSettings()

    @field_validator("bootstrap_key")
    @classmethod
    def _key_must_have_its_form(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            ApiKey.parse(key.get_secret_value())
        return key

    @model_validator(mode="after")
    def _none_stands_alone(self) -> Self:
        if AuthMode.NONE in self.mode and len(self.mode) > 1:
            raise ValueError("mode none accepts everybody; it cannot be combined with another")
        return self

    @model_validator(mode="after")
    def _oidc_needs_its_issuer(self) -> Self:
        if (AuthMode.OIDC in self.mode) != bool(self.oidc.issuer):
            raise ValueError("mode oidc and oidc.issuer belong together")
        return self

    @property
    def modes(self) -> frozenset[AuthMode]:
        """The modes in force, without ``none``; empty: nobody is authenticated."""
        return frozenset(self.mode) - {AuthMode.NONE}

    def check_host(self, host: str, setting: str = "server.host") -> None:
        """Raises ValueError where nobody is authenticated and machines other than this one reach ``host``."""
        if self.modes or self.insecure or is_loopback(host):
            return
        raise ValueError(
            f"{setting} {host} is reached by other machines and auth.mode is "
            f"{'none' if self.mode else 'not set'}: set auth.mode to keys or oidc, listen on 127.0.0.1, or accept "
            "everybody with auth.insecure"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
