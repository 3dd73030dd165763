"""Tokens of a real OIDC provider: npm's oidc-provider in a process of its own."""

import asyncio
import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from live_avatar.services.gateway.access.caller import Scope
from live_avatar.services.gateway.access.oidc import Claims
from live_avatar.services.gateway.access.oidc_settings import OidcSettings
from tests.services.gateway.access.fake_issuer import SigningKey
from tests.services.gateway.access.verifying import rejection, verifying

HERE = Path(__file__).parent / "provider"
CLAIMS = Claims(tenant="team-a", subject="team-a", scopes=frozenset({Scope.SESSIONS}))
INSTALL_S = 120
START_S = 60


@pytest.fixture(scope="module")
def provider_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The provider with its packages."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("there is no npm")
    folder = tmp_path_factory.mktemp("provider")
    for file in HERE.iterdir():
        shutil.copy(file, folder)
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=folder, timeout=INSTALL_S, capture_output=True, check=False,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip("no package registry can be reached")
    return folder


@contextmanager
def provider(folder: Path, port: int, *keys: SigningKey) -> Iterator[str]:
    """A provider that signs with the first of ``keys``; its URL."""
    (folder / "keys.json").write_text(json.dumps({"keys": [key.private_form for key in keys]}))
    log = folder / "provider.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["node", "provider.mjs", str(port), "keys.json"], cwd=folder, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_S
        while "listening" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the provider does not listen"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def fetch_token(issuer: str) -> str:
    """An access token by client credentials."""
    form = {"grant_type": "client_credentials", "resource": "urn:live-avatar", "scope": "live-avatar:sessions"}
    credentials = base64.b64encode(b"team-a:of-the-test").decode()
    request = Request(f"{issuer}/token", urlencode(form).encode(), {"Authorization": f"Basic {credentials}"})
    with urlopen(request, timeout=30) as answer:
        token: str = json.load(answer)["access_token"]
    return token


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def settings_for(port: int) -> OidcSettings:
    return OidcSettings(
        issuer=f"http://127.0.0.1:{port}",
        audience=("live-avatar",),
        tenant_claim="org.tenant",
        scope_prefix="live-avatar:",
    )


def test_its_tokens_are_taken_before_and_after_it_changes_its_keys(provider_folder: Path) -> None:
    port = free_port()
    first_key, second_key = SigningKey("first", "RS256"), SigningKey("second", "ES256")

    async def verify() -> None:
        with ExitStack() as before:
            issuer = before.enter_context(provider(provider_folder, port, first_key))
            async with verifying(settings_for(port)) as verifier:
                first, kept = fetch_token(issuer), fetch_token(issuer)
                assert await verifier.verify(first) == CLAIMS
                before.close()
                assert await verifier.verify(kept) == CLAIMS, "known keys verify while the provider is away"
                with provider(provider_folder, port, second_key) as again:
                    assert await verifier.verify(fetch_token(again)) == CLAIMS
                    assert await rejection(verifier, first) == ("UNAUTHENTICATED", "CREDENTIAL_INVALID")

    asyncio.run(verify())


def test_its_tokens_for_other_services_are_not_taken(provider_folder: Path) -> None:
    port = free_port()

    async def verify() -> None:
        elsewhere = settings_for(port).model_copy(update={"audience": ("another-service",)})
        with provider(provider_folder, port, SigningKey("first", "EdDSA")) as issuer:
            async with verifying(elsewhere) as verifier:
                assert await rejection(verifier, fetch_token(issuer)) == ("UNAUTHENTICATED", "CREDENTIAL_INVALID")
            async with verifying(settings_for(port)) as verifier:
                assert await verifier.verify(fetch_token(issuer)) == CLAIMS

    asyncio.run(verify())
