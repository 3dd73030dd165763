"""Settings of the OIDC issuer whose tokens are taken."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from live_avatar.services.gateway.access.caller import TENANT_PATTERN
from live_avatar.services.gateway.access.issuer import check_url
from live_avatar.serving.settings import CommaSeparated, Group

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Of signatures by a private key alone: whoever can check a token must not be able to make one."""
_Claim = Annotated[str, Field(max_length=256)]


class OidcSettings(Group):
    """Whose tokens are taken, and what their claims mean."""

    issuer: str = Field(
        default="", description="URL of the OIDC issuer, exactly as its tokens name it; https, or http on loopback"
    )
    audience: CommaSeparated[str] = Field(
        default=(), description="audiences of which a token must name at least one; required beside issuer"
    )
    algorithms: CommaSeparated[Algorithm] = Field(
        default=("RS256", "ES256", "EdDSA"),
        min_length=1,
        description="signature algorithms that are accepted; asymmetric ones only",
    )
    leeway_seconds: float = Field(
        default=30.0, ge=0, le=300, description="difference of clocks that is tolerated when times are checked"
    )
    tenant_claim: _Claim = Field(
        default="", description="claim that holds the tenant; a dot leads into a nested claim, as in org.tenant"
    )
    tenant: Annotated[str, Field(pattern=f"^$|{TENANT_PATTERN}")] = Field(
        default="", description="tenant of all tokens, instead of tenant_claim"
    )
    allow_operator: bool = Field(
        default=False, description="accept tokens whose tenant is the operator's, who manages all tenants"
    )
    scope_claim: _Claim = Field(
        default="scope", min_length=1, description="claim that holds the scopes: words with spaces between, or a list"
    )
    scope_prefix: str = Field(
        default="", max_length=256, description="what precedes the scopes of Live Avatar, such as live-avatar:"
    )
    jwks_uri: str = Field(
        default="", description="URL of the issuer's public keys; unset: /.well-known/openid-configuration names it"
    )
    ca_file: Path | None = Field(
        default=None, description="CA certificates (PEM) for connections to the issuer; unset: those of the system"
    )
    refresh_seconds: float = Field(
        default=300.0, ge=10, le=86_400, description="time between two fetches of the issuer's keys"
    )

    @model_validator(mode="after")
    def _names_belong_together(self) -> Self:
        if not self.issuer:
            return self
        check_url(self.issuer)
        if self.jwks_uri:
            check_url(self.jwks_uri, named_by=self.issuer)
        if not self.audience:
            raise ValueError("audience is required: tokens that the issuer made for others are no credentials here")
        if bool(self.tenant) == bool(self.tenant_claim):
            raise ValueError("give exactly one of tenant and tenant_claim")
        return self
