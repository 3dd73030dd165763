"""A verifier that runs, and what it says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from live_avatar.services.gateway.access.jwks import FetchTiming
from live_avatar.services.gateway.access.oidc import OidcVerifier, build_verifier
from live_avatar.services.gateway.access.oidc_settings import OidcSettings
from live_avatar.serving.errors import ServiceError

FAST = FetchTiming(backoff_min_s=0.02, backoff_max_s=0.1, burst=3, burst_s=1.0, wait_s=5.0)


class Fetches:
    """Remembers what it observes."""

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.results: list[str] = []

    def issuer_keys(self, count: int) -> None:
        self.keys.append(count)

    def issuer_fetched(self, result: str) -> None:
        self.results.append(result)


def oidc_settings(url: str, **other: Any) -> OidcSettings:
    """Settings for an issuer, but for what ``other`` says otherwise."""
    return OidcSettings(**{"issuer": url, "audience": ("live-avatar",), "tenant_claim": "tenant"} | other)


@asynccontextmanager
async def verifying(
    settings: OidcSettings, timing: FetchTiming = FAST, observer: Fetches | None = None, *, wait: bool = True
) -> AsyncIterator[OidcVerifier]:
    """A verifier whose ``run`` runs, with keys unless it is not to ``wait``."""
    verifier = build_verifier(settings, observer or Fetches(), "operators", timing)
    running = asyncio.create_task(verifier.run())
    try:
        if wait:
            await until_ready(verifier)
        yield verifier
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until_ready(verifier: OidcVerifier) -> None:
    async with asyncio.timeout(30):
        while not verifier.ready:  # noqa: ASYNC110 - another process would be asked so too
            await asyncio.sleep(0.01)


async def rejection(verifier: OidcVerifier, token: str) -> tuple[str, str]:
    """Code and reason with which a token is rejected."""
    with pytest.raises(ServiceError) as caught:
        await verifier.verify(token)
    return caught.value.code.name, caught.value.reason
