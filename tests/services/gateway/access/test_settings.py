"""Who may start a gateway that authenticates nobody."""

from typing import Any

import pytest

from live_avatar.services.gateway.access.settings import AuthMode
from live_avatar.services.gateway.settings import GatewaySettings

ISSUER = {"issuer": "https://issuer.example.com", "audience": "live-avatar", "tenant_claim": "tenant"}
NOWHERE = ("127.0.0.1:1/127.0.0.1:2",)


def settings(host: str, **auth: Any) -> GatewaySettings:
    return GatewaySettings.model_validate({"pipelines": NOWHERE, "server": {"host": host}, "auth": auth})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_on_this_machine_nobody_need_be_authenticated(host: str) -> None:
    assert not settings(host).auth.modes
    assert not settings(host, mode="none").auth.modes
    assert settings(host, mode="keys").auth.modes == {AuthMode.KEYS}


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "gateway.example", ""])
@pytest.mark.parametrize("mode", [{}, {"mode": "none"}])
def test_other_machines_must_be_authenticated_unless_the_operator_insists(host: str, mode: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"auth\.mode.*auth\.insecure"):
        settings(host, **mode)
    assert not settings(host, **mode, insecure=True).auth.modes
    assert settings(host, mode="keys, oidc", oidc=ISSUER).auth.modes == {AuthMode.KEYS, AuthMode.OIDC}


def test_none_stands_alone() -> None:
    with pytest.raises(ValueError, match="cannot be combined"):
        settings("127.0.0.1", mode="none,keys")


def test_the_issuer_of_tokens_is_named_where_they_are_accepted_and_nowhere_else() -> None:
    for auth in ({"mode": "oidc"}, {"mode": "keys", "oidc": ISSUER}):
        with pytest.raises(ValueError, match="belong together"):
            settings("127.0.0.1", **auth)
