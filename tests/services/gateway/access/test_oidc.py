"""Which tokens are taken, and what they mean."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from pydantic import ValidationError

from live_avatar.services.gateway.access.caller import Scope
from live_avatar.services.gateway.access.oidc import MAX_TOKEN_BYTES, Claims
from tests.services.gateway.access.fake_issuer import FakeIssuer, SigningKey, fake_issuer
from tests.services.gateway.access.verifying import oidc_settings, rejection, verifying

INVALID = ("UNAUTHENTICATED", "CREDENTIAL_INVALID")
EXPIRED = ("UNAUTHENTICATED", "CREDENTIAL_EXPIRED")
FORBIDDEN = ("PERMISSION_DENIED", "TENANT_FORBIDDEN")


@pytest.fixture(scope="module")
def issuer() -> Iterator[FakeIssuer]:
    with fake_issuer(SigningKey("ec"), SigningKey("rsa", "RS256"), SigningKey("ed", "EdDSA")) as running:
        yield running


def claims_of(issuer: FakeIssuer, token: str, **settings: Any) -> Claims:
    async def verify() -> Claims:
        async with verifying(oidc_settings(issuer.url, **settings)) as verifier:
            return await verifier.verify(token)

    return asyncio.run(verify())


def rejected(issuer: FakeIssuer, token: str, **settings: Any) -> tuple[str, str]:
    async def verify() -> tuple[str, str]:
        async with verifying(oidc_settings(issuer.url, **settings)) as verifier:
            return await rejection(verifier, token)

    return asyncio.run(verify())


def by_hand(header: dict[str, Any], payload: dict[str, Any], secret: bytes = b"") -> str:
    """A token that no library of ours would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest() if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def payload_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


@pytest.mark.parametrize("number", range(3), ids=["ES256", "RS256", "EdDSA"])
def test_a_token_of_the_issuer_is_taken(issuer: FakeIssuer, number: int) -> None:
    token = issuer.token(issuer.keys[number], scope="openid usage sessions")
    expected = Claims(tenant="team-a", subject="robot", scopes=frozenset({Scope.SESSIONS, Scope.USAGE}))
    assert claims_of(issuer, token) == expected


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": int(time.time()) - 3_600}, EXPIRED),
        ({"nbf": int(time.time()) + 3_600}, INVALID),
        ({"iat": int(time.time()) + 3_600}, INVALID),
        ({"exp": None}, INVALID),
        ({"exp": "tomorrow"}, INVALID),
        ({"iss": "http://127.0.0.1:1"}, INVALID),
        ({"iss": None}, INVALID),
        ({"aud": "another-service"}, INVALID),
        ({"aud": None}, INVALID),
        ({"sub": None}, INVALID),
        ({"sub": ""}, INVALID),
        ({"sub": "x" * 300}, INVALID),
        ({"tenant": None}, FORBIDDEN),
        ({"tenant": "Team A"}, FORBIDDEN),
        ({"tenant": ["team-a"]}, FORBIDDEN),
        ({"tenant": "operators"}, FORBIDDEN),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value[1],
)
def test_claims_that_are_not_taken(issuer: FakeIssuer, claims: dict[str, Any], expected: tuple[str, str]) -> None:
    assert rejected(issuer, issuer.token(**claims)) == expected


def test_clocks_may_differ_by_the_leeway(issuer: FakeIssuer) -> None:
    token = issuer.token(exp=int(time.time()) - 20)
    assert claims_of(issuer, token, leeway_seconds=60).tenant == "team-a"
    assert rejected(issuer, token, leeway_seconds=5) == EXPIRED


def test_an_unsigned_token_is_rejected(issuer: FakeIssuer) -> None:
    for algorithm in ("none", "None", "", None, 7, ["RS256"]):
        token = by_hand({"alg": algorithm, "kid": "rsa"}, payload_of(issuer.token()))
        assert rejected(issuer, token) == INVALID


def test_the_public_key_is_no_secret_of_ours(issuer: FakeIssuer) -> None:
    """A token with a symmetric signature by what everybody can read."""
    token = by_hand({"alg": "HS256", "kid": "rsa"}, payload_of(issuer.token()), issuer.keys[1].public_pem)
    assert rejected(issuer, token) == INVALID


def test_the_header_does_not_choose_the_algorithm_of_a_key(issuer: FakeIssuer) -> None:
    for key_id, algorithm in (("rsa", "ES256"), ("ec", "RS256"), ("ec", "EdDSA")):
        genuine = issuer.token()
        header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": key_id}).encode()).rstrip(b"=").decode()
        assert rejected(issuer, ".".join([header, *genuine.split(".")[1:]])) == INVALID


def test_a_key_in_the_token_itself_is_not_used(issuer: FakeIssuer) -> None:
    own = SigningKey("ec")
    for headers in ({"jwk": own.public}, {"jku": "http://127.0.0.1:1/jwks"}, {}):
        assert rejected(issuer, issuer.token(own, headers)) == INVALID


def test_a_changed_claim_breaks_the_signature(issuer: FakeIssuer) -> None:
    header, _, signature = issuer.token().split(".")
    changed = base64.urlsafe_b64encode(json.dumps(payload_of(issuer.token(tenant="team-b"))).encode()).rstrip(b"=")
    assert rejected(issuer, f"{header}.{changed.decode()}.{signature}") == INVALID


@pytest.mark.parametrize("token", ["", "abc", "a.b.c", "....", "x" * (MAX_TOKEN_BYTES + 1), "ä.ö.ü", "W10.W10.W10"])
def test_what_is_no_token_is_rejected(issuer: FakeIssuer, token: str) -> None:
    assert rejected(issuer, token) == INVALID


def test_an_algorithm_can_be_left_out(issuer: FakeIssuer) -> None:
    assert rejected(issuer, issuer.token(issuer.keys[1]), algorithms=("ES256",)) == INVALID


def test_claims_may_be_nested_and_scopes_a_list_with_a_prefix(issuer: FakeIssuer) -> None:
    token = issuer.token(org={"tenant": "team-b"}, roles=["live-avatar:sessions", "admin", 7])
    claims = {"tenant_claim": "org.tenant", "scope_claim": "roles", "scope_prefix": "live-avatar:"}
    found = claims_of(issuer, token, **claims, audience="other,live-avatar")
    assert (found.tenant, found.scopes) == ("team-b", frozenset({Scope.SESSIONS}))


def test_a_claim_may_have_dots_in_its_name(issuer: FakeIssuer) -> None:
    name = "https://example.com/tenant"
    claims: dict[str, Any] = {name: "team-c"}
    assert claims_of(issuer, issuer.token(**claims), tenant_claim=name).tenant == "team-c"


def test_all_tokens_may_have_one_tenant(issuer: FakeIssuer) -> None:
    assert claims_of(issuer, issuer.token(tenant=None), tenant_claim="", tenant="team-x").tenant == "team-x"


def test_tokens_may_be_the_operators_where_that_is_allowed(issuer: FakeIssuer) -> None:
    assert claims_of(issuer, issuer.token(tenant="operators"), allow_operator=True).tenant == "operators"


def test_a_verified_token_is_not_verified_again_until_it_expires(
    issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = jwt.decode

    def counting(token: str, *arguments: Any, **named: Any) -> Any:
        decoded.append(token)
        return decode(token, *arguments, **named)

    monkeypatch.setattr(jwt, "decode", counting)

    async def verify() -> tuple[str, str]:
        async with verifying(oidc_settings(issuer.url, leeway_seconds=0)) as verifier:
            token = issuer.token(exp=int(time.time()) + 2)
            for _ in range(5):
                await verifier.verify(token)
            assert decoded == [token]
            await asyncio.sleep(2.1)
            return await rejection(verifier, token)

    assert asyncio.run(verify()) == EXPIRED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithms": "HS256"}, "algorithms"),
        ({"algorithms": "none"}, "algorithms"),
        ({"algorithms": ""}, "algorithms"),
        ({"issuer": "http://issuer.example.com"}, "https"),
        ({"issuer": "https://user@issuer.example.com"}, "without user"),
        ({"issuer": "issuer.example.com"}, "no URL"),
        ({"issuer": "https://issuer.example.com", "jwks_uri": "http://127.0.0.1/jwks"}, "https"),
        ({"audience": ""}, "audience"),
        ({"tenant_claim": ""}, "exactly one of tenant"),
        ({"tenant": "team-a"}, "exactly one of tenant"),
    ],
    ids=str,
)
def test_settings_that_would_take_too_much_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        oidc_settings("https://issuer.example.com", **settings)
