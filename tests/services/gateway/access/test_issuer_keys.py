"""When the issuer's keys are fetched, and what a bad issuer costs."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from live_avatar.services.gateway.access import issuer as issuer_module
from live_avatar.services.gateway.access.issuer import IssuerClient, IssuerError
from live_avatar.services.gateway.access.jwks import parse_key_set
from tests.services.gateway.access.fake_issuer import FakeIssuer, SigningKey, fake_issuer
from tests.services.gateway.access.verifying import FAST, Fetches, oidc_settings, rejection, until_ready, verifying

INVALID = ("UNAUTHENTICATED", "CREDENTIAL_INVALID")
UNAVAILABLE = ("UNAVAILABLE", "ISSUER_UNAVAILABLE")


async def documents(client: IssuerClient, url: str) -> dict[str, Any]:
    return await client.fetch(url, dict)


async def failure(client: IssuerClient, url: str) -> str:
    with pytest.raises(IssuerError) as caught:
        await documents(client, url)
    return str(caught.value)


def test_a_new_key_is_taken_at_once_and_an_old_one_no_longer() -> None:
    async def rotate(issuer: FakeIssuer) -> None:
        async with verifying(oidc_settings(issuer.url)) as verifier:
            before = issuer.token()
            await verifier.verify(before)
            issuer.keys = [SigningKey("second")]
            assert (await verifier.verify(issuer.token())).tenant == "team-a"
            assert await rejection(verifier, before) == INVALID

    with fake_issuer(SigningKey("first")) as issuer:
        asyncio.run(rotate(issuer))


def test_a_key_that_keeps_its_id_is_still_another_key() -> None:
    async def rotate(issuer: FakeIssuer) -> None:
        async with verifying(oidc_settings(issuer.url)) as verifier:
            before = issuer.token()
            await verifier.verify(before)
            issuer.keys = [SigningKey("same"), SigningKey("other")]
            await verifier.verify(issuer.token(issuer.keys[1]))
            assert await rejection(verifier, before) == INVALID

    with fake_issuer(SigningKey("same")) as issuer:
        asyncio.run(rotate(issuer))


def test_a_flood_of_unknown_keys_costs_few_fetches() -> None:
    async def flood(issuer: FakeIssuer) -> None:
        async with verifying(oidc_settings(issuer.url)) as verifier:
            began, first = time.monotonic(), issuer.key_requests
            stranger = SigningKey("stranger")
            tokens = [issuer.token(stranger, {"kid": f"stranger-{number}"}) for number in range(500)]
            answers = await asyncio.gather(*(rejection(verifier, token) for token in tokens))
            for token in tokens[:100]:
                answers.append(await rejection(verifier, token))
            assert set(answers) == {INVALID}
            periods = 1 + (time.monotonic() - began) / FAST.burst_s
            assert 1 <= issuer.key_requests - first <= FAST.burst * periods

    with fake_issuer(SigningKey("first")) as issuer:
        asyncio.run(flood(issuer))


def test_without_a_key_id_the_only_fitting_key_is_used() -> None:
    async def verify(issuer: FakeIssuer) -> None:
        nameless = issuer.token(headers={"kid": None})
        async with verifying(oidc_settings(issuer.url)) as verifier:
            assert (await verifier.verify(nameless)).subject == "robot"
        issuer.keys.append(SigningKey("second"))
        async with verifying(oidc_settings(issuer.url)) as verifier:
            assert await rejection(verifier, nameless) == INVALID

    with fake_issuer(SigningKey("first"), SigningKey("of another kind", "EdDSA")) as issuer:
        asyncio.run(verify(issuer))


def test_while_the_issuer_is_away_known_keys_verify() -> None:
    async def lose(issuer: FakeIssuer) -> None:
        fetches = Fetches()
        async with verifying(oidc_settings(issuer.url), observer=fetches) as verifier:
            issuer.status = 503
            assert await rejection(verifier, issuer.token(SigningKey("unknown"))) == UNAVAILABLE
            assert (await verifier.verify(issuer.token())).tenant == "team-a"
            assert "failed" in fetches.results
            assert verifier.ready

    with fake_issuer(SigningKey("first")) as issuer:
        asyncio.run(lose(issuer))


def test_an_issuer_that_comes_later_is_found() -> None:
    async def wait(issuer: FakeIssuer) -> None:
        fetches = Fetches()
        issuer.status = 503
        async with verifying(oidc_settings(issuer.url), observer=fetches, wait=False) as verifier:
            assert await rejection(verifier, issuer.token()) == UNAVAILABLE
            assert not verifier.ready
            issuer.status = 200
            await until_ready(verifier)
            assert (await verifier.verify(issuer.token())).tenant == "team-a"
            assert fetches.keys == [1]
            assert fetches.results[0] == "failed"

    with fake_issuer(SigningKey("first")) as issuer:
        asyncio.run(wait(issuer))


def test_keys_are_fetched_again_by_themselves() -> None:
    async def wait(issuer: FakeIssuer) -> None:
        settings = oidc_settings(issuer.url, jwks_uri=f"{issuer.url}/jwks")
        often = type(FAST)(refresh_s=0.05)
        async with verifying(settings, often), asyncio.timeout(30):
            while issuer.key_requests < 4:  # noqa: ASYNC110 - another process would be asked so too
                await asyncio.sleep(0.01)
        assert set(issuer.requests) == {"/jwks"}

    with fake_issuer(SigningKey("first")) as issuer:
        asyncio.run(wait(issuer))


def test_an_issuer_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the loop nor the end waits; further requests fail until a thread is free."""

    async def ask(issuer: FakeIssuer) -> None:
        client = IssuerClient(answer_s=0.2)
        issuer.delay_s = 60
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        for _ in range(2):
            assert "did not answer within 0.2 s" in await failure(client, f"{issuer.url}/jwks")
        assert await failure(client, f"{issuer.url}/jwks") == "earlier requests still hang"
        assert ticks >= 5
        ticking.cancel()

    monkeypatch.setattr(issuer_module, "_SILENCE_S", 5.0)
    with fake_issuer(SigningKey("first")) as issuer:
        asyncio.run(ask(issuer))


def test_documents_that_are_no_use_are_named() -> None:
    async def ask(issuer: FakeIssuer) -> None:
        client, url = IssuerClient(), f"{issuer.url}/jwks"
        issuer.padding_bytes = 300_000
        assert "more than 262144 bytes" in await failure(client, url)
        issuer.padding_bytes = 0
        issuer.document = ["a", "list"]
        assert "no JSON object" in await failure(client, url)
        issuer.status = 404
        assert "status 404" in await failure(client, url)
        issuer.redirect = "http://localhost:1/jwks"
        assert "redirects to another host are not followed" in await failure(client, url)
        issuer.redirect = "/jwks"  # round and round
        assert "status 302" in await failure(client, url)
        assert "refused" in await failure(client, "http://127.0.0.1:1/jwks")

    with fake_issuer(SigningKey("first")) as issuer:
        asyncio.run(ask(issuer))


@pytest.mark.parametrize(
    ("name", "value"), [("names_itself", "http://127.0.0.1:1"), ("jwks_uri", "http://keys.example.com/jwks")]
)
def test_a_configuration_that_contradicts_the_settings_gives_no_keys(name: str, value: str) -> None:
    async def ask(issuer: FakeIssuer) -> None:
        fetches = Fetches()
        async with verifying(oidc_settings(issuer.url), observer=fetches, wait=False) as verifier, asyncio.timeout(30):
            while not fetches.results:  # noqa: ASYNC110 - another process would be asked so too
                await asyncio.sleep(0.01)
            assert not verifier.ready
            assert set(fetches.results) == {"failed"}
            assert issuer.key_requests == 0

    with fake_issuer(SigningKey("first")) as issuer:
        setattr(issuer, name, value)
        asyncio.run(ask(issuer))


def test_a_certificate_of_nobody_is_not_trusted(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        IssuerClient(tmp_path / "nothing.pem")


def test_keys_that_are_not_for_signatures_are_left_out() -> None:
    ec, rsa = SigningKey("ec"), SigningKey("rsa", "RS256")
    entries: list[object] = [
        ec.public,
        {**rsa.public, "kid": "for-encryption", "use": "enc"},
        {**rsa.public, "kid": "of-another-algorithm", "alg": "PS256"},
        {**rsa.private_form, "kid": "private"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric", "alg": "HS256"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "short", "alg": "RS256"},
        {"kty": "EC", "crv": "P-256", "x": 1, "y": None, "kid": "malformed"},
        {"kty": "EC", "crv": "P-384", "x": "AQ", "y": "AQ", "kid": "another-curve"},
        {**rsa.public, "kid": 7},
        "no key",
    ]
    found = parse_key_set({"keys": entries}, ("RS256", "ES256", "EdDSA"))
    assert set(found.keys) == {("ec", "ES256")}
    unusable: list[object] = ["none", [], [ec.public] * 101, entries[1:]]
    for keys in unusable:
        with pytest.raises(ValueError, match="no "):
            parse_key_set({"keys": keys}, ("RS256", "ES256", "EdDSA"))
