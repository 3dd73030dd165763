"""API keys in the Python client and on the command line, on a gateway that wants them."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from live_avatar.cli.keys import parse_lifetime
from live_avatar.client import AdminClient, AvatarClient, AvatarError, SessionOptions
from tests.services.gateway.callers import BOOTSTRAP, guarded_gateway
from tests.services.gateway.clients import portrait
from tests.services.gateway.fake_pipeline import fake_pipeline

ROOT = Path(__file__).parents[2]
FAR = "gateway.example:50051"


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """Address of a gateway that wants keys."""
    addresses: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with fake_pipeline() as pipeline, guarded_gateway(pipeline) as (gateway, _):
            addresses.append(gateway.target)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield addresses[0]
    finally:
        stop.set()
        thread.join(30)


def test_a_session_needs_a_key_and_its_stream_does_not(target: str) -> None:
    async def scenario() -> None:
        options = SessionOptions(sample_rate_hz=16_000)
        async with AvatarClient(target) as client:
            with pytest.raises(AvatarError) as refused:
                await client.create_session(portrait(), options)
            assert (refused.value.code, refused.value.reason) == (
                grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING",
            )  # fmt: skip
        async with AvatarClient(target, api_key=BOOTSTRAP.text) as client:
            session = await client.create_session(portrait(), options)
            async with session.stream():
                await session.close()

    asyncio.run(scenario())


def test_a_function_gives_the_current_key_for_every_call(target: str) -> None:
    async def scenario() -> None:
        keys = ["la_wrong", BOOTSTRAP.text]

        async def current() -> str:
            await asyncio.sleep(0)
            return keys.pop(0)

        async with AvatarClient(target, api_key=current) as client:
            with pytest.raises(AvatarError, match="CREDENTIAL_INVALID"):
                await client.server_info()
            assert (await client.server_info()).session_capacity
        async with AvatarClient(target, api_key=lambda: BOOTSTRAP.text) as client:
            assert (await client.server_info()).session_capacity

    asyncio.run(scenario())


def test_a_key_does_not_cross_a_network_in_plain_text() -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="plain text") as refused:
            AvatarClient(FAR, api_key=BOOTSTRAP.text)
        assert BOOTSTRAP.secret not in str(refused.value)
        with pytest.raises(ValueError, match="plain text"):
            AdminClient(FAR, api_key=lambda: BOOTSTRAP.text)
        for bad in ("", "two words", "la_\n", "schlüssel"):
            with pytest.raises(ValueError, match="API key") as malformed:
                AvatarClient("127.0.0.1:1", api_key=bad)
            assert not bad or bad not in str(malformed.value)
        async with (
            AvatarClient(FAR, api_key=BOOTSTRAP.text, insecure=True),
            AvatarClient(FAR, grpc.ssl_channel_credentials(), api_key=BOOTSTRAP.text),
            AvatarClient(FAR),
        ):
            pass

    asyncio.run(scenario())


def test_the_admin_client_creates_lists_and_revokes(target: str) -> None:
    async def scenario() -> None:
        async with AdminClient(target, api_key=BOOTSTRAP.text) as admin:
            made, secret = await admin.create_key(
                ["sessions"], tenant="team", name="of a test", lifetime=timedelta(days=1)
            )
            assert made.create_time is not None and made.expire_time == made.create_time + timedelta(days=1)
            assert [key async for key in admin.keys("team")] == [made]
            async with AvatarClient(target, api_key=secret) as client:
                info = await client.server_info()
            assert (info.sessions_open, info.pipelines) == (0, ())
            assert (await admin.revoke_key(made.key_id)).revoke_time is not None
            with pytest.raises(AvatarError, match="API_KEY_NOT_FOUND"):
                await admin.revoke_key("nobody")

    asyncio.run(scenario())


def command(*words: str, key: str = BOOTSTRAP.text) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LIVE_AVATAR_API_KEY"}
    if key:
        environment["LIVE_AVATAR_API_KEY"] = key
    program = [sys.executable, "-m", "live_avatar.cli", *words]
    return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_commands_manage_keys_and_print_a_secret_once(target: str) -> None:
    where = ("--gateway", target)
    made = command("keys", "create", *where, "--tenant", "crew", "--scopes", "sessions, usage", "--lifetime", "90d")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("la_") and "\n" not in secret
    assert secret.split("_", 2)[2] not in made.stderr and "sessions,usage" in made.stderr
    listed = json.loads(command("keys", "list", *where, "--tenant", "crew", "--json").stdout)
    assert [(one["tenant"], one["scopes"]) for one in listed] == [("crew", ["sessions", "usage"])]
    key_id = listed[0]["key_id"]
    revoked = command("keys", "revoke", key_id, *where)
    assert revoked.returncode == 0 and "revoked" in revoked.stdout
    refused = command("doctor", *where, key=secret)
    assert "KEY_REVOKED" in refused.stdout and secret not in refused.stdout + refused.stderr
    assert "OK    gateway" in command("doctor", *where).stdout


@pytest.mark.parametrize(
    ("words", "key", "reason"),
    [
        (("keys", "list"), "", "CREDENTIAL_MISSING"),
        (("keys", "list"), "la_wrong-and-secret", "CREDENTIAL_INVALID"),
        (("keys", "create", "--lifetime", "soon"), BOOTSTRAP.text, "--lifetime"),
        (("keys", "create", "--scopes", "all"), BOOTSTRAP.text, "SCOPES_INVALID"),
        (("keys", "revoke", "nobody"), BOOTSTRAP.text, "API_KEY_NOT_FOUND"),
    ],
    ids=["no key", "wrong key", "lifetime", "scope", "unknown key"],
)
def test_commands_fail_in_one_line_without_the_key(target: str, words: tuple[str, ...], key: str, reason: str) -> None:
    done = command(*words, "--gateway", target, key=key)
    assert done.returncode == 2
    assert reason in done.stderr and len(done.stderr.splitlines()) == 1
    assert not key or key not in done.stderr + done.stdout


def test_a_command_sends_no_key_in_plain_text_unless_allowed() -> None:
    done = command("generate", "--gateway", FAR, "--out", "never.mp4")
    assert done.returncode == 2 and "--insecure" in done.stderr
    assert BOOTSTRAP.secret not in done.stderr


@pytest.mark.parametrize(("text", "seconds"), [("90d", 90 * 86_400), ("12h", 43_200), ("30m", 1_800), ("7s", 7)])
def test_lifetimes_have_units(text: str, seconds: int) -> None:
    lifetime = parse_lifetime(text)
    assert lifetime is not None and lifetime.total_seconds() == seconds
    assert parse_lifetime("") is None


@pytest.mark.parametrize("text", ["0d", "d", "1", "-1d", "1.5h", "1w", "9999999999d"])
def test_other_lifetimes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--lifetime"):
        parse_lifetime(text)
