"""What a session token gives the right to, and for how long."""

import grpc
import pytest

from live_avatar.services.gateway.access.tokens import LEEWAY_MS, MAX_CHARACTERS, SessionTokens, TokenClaims
from live_avatar.serving.errors import ServiceError

KEY, OTHER = b"a key of the tests", b"another key"
SESSION, END_MS = "0f" * 16, 1_800_000_000_000


def tokens(key: bytes = KEY, previous: bytes | None = None, now_ms: int = END_MS - 1) -> SessionTokens:
    return SessionTokens(key, previous, clock_ms=lambda: now_ms)


def reason(token: str, who: SessionTokens) -> str:
    with pytest.raises(ServiceError) as refused:
        who.check(token)
    assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert token[-20:] not in refused.value.message or not token
    return refused.value.reason


def test_a_token_opens_its_session_and_is_the_same_every_time() -> None:
    token = tokens().make(SESSION, "acme", END_MS)
    assert tokens().check(token) == TokenClaims(SESSION, "acme")
    assert token == tokens().make(SESSION, "acme", END_MS)
    assert len(tokens().make("f" * 64, "t" * 63, 10**14)) <= MAX_CHARACTERS


def test_every_part_is_signed() -> None:
    token = tokens().make(SESSION, "acme", END_MS)
    key, session, tenant, end, mac = token.split(".")
    other = tokens().make("1" * 32, "acme", END_MS).split(".")[1]
    for forged in (
        (key, other, tenant, end, mac),
        (key, session, "acmf", end, mac),
        (key, session, tenant, str(END_MS + 1), mac),
        (key, session, tenant, end, mac[::-1]),
        ("las_00000000", session, tenant, end, mac),
    ):
        assert reason(".".join(forged), tokens()) == "TOKEN_INVALID"


@pytest.mark.parametrize("token", ["", ".", "x", f"{SESSION}.{'0' * 64}", "las_", "las_0.0.0.0.0", "é" * 100])
def test_other_forms_are_invalid(token: str) -> None:
    assert reason(token, tokens()) == "TOKEN_INVALID"


def test_a_token_ends_with_its_session_but_for_the_leeway() -> None:
    token = tokens().make(SESSION, "acme", END_MS)
    assert tokens(now_ms=END_MS + LEEWAY_MS).check(token).tenant == "acme"
    assert reason(token, tokens(now_ms=END_MS + LEEWAY_MS + 1)) == "TOKEN_EXPIRED"
    forged = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert reason(forged, tokens(now_ms=END_MS + LEEWAY_MS + 1)) == "TOKEN_INVALID"


def test_two_keys_are_valid_while_one_replaces_the_other() -> None:
    old = tokens(OTHER).make(SESSION, "acme", END_MS)
    both = tokens(KEY, previous=OTHER)
    assert both.check(old) == both.check(tokens(KEY).make(SESSION, "acme", END_MS))
    assert both.make(SESSION, "acme", END_MS) == tokens(KEY).make(SESSION, "acme", END_MS)
    assert reason(old, tokens(KEY)) == "TOKEN_INVALID"
