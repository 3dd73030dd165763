"""Callers with tokens of an issuer, on a gateway."""

import asyncio
import time
from typing import Any

import grpc

from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.access.fake_issuer import FakeIssuer, SigningKey, fake_issuer
from tests.services.gateway.callers import BOOTSTRAP, Caller, guarded_gateway, guarded_system, refused
from tests.services.gateway.clients import create_request
from tests.services.gateway.fake_pipeline import fake_pipeline

LIST = api.ListSessionsRequest()


def oidc(issuer: FakeIssuer, mode: str = "oidc") -> dict[str, Any]:
    return {"mode": mode, "oidc": {"issuer": issuer.url, "audience": "live-avatar", "tenant_claim": "tenant"}}


async def outcome(caller: Caller, token: str) -> tuple[grpc.StatusCode, str]:
    error = await refused(caller.using(token).call(LIST))
    return error.code, error.reason


def test_a_token_opens_what_its_scopes_allow() -> None:
    async def scenario(issuer: FakeIssuer) -> None:
        async with guarded_system(auth=oidc(issuer)) as caller:
            created = await caller.using(issuer.token()).call(create_request())
            listed = await caller.using(issuer.token()).call(LIST)
            assert [session.session_id for session in listed.sessions] == [created.session.session_id]
            unauthenticated, denied = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
            expired = issuer.token(exp=int(time.time()) - 3_600)
            assert await outcome(caller, expired) == (unauthenticated, "CREDENTIAL_EXPIRED")
            assert await outcome(caller, issuer.token(SigningKey("ec"))) == (unauthenticated, "CREDENTIAL_INVALID")
            assert await outcome(caller, issuer.token(scope="openid usage")) == (denied, "SCOPE_MISSING")
            assert await outcome(caller, issuer.token(tenant=None)) == (denied, "TENANT_FORBIDDEN")
            assert await outcome(caller, issuer.token(tenant="default")) == (denied, "TENANT_FORBIDDEN")

    with fake_issuer(SigningKey("ec")) as issuer:
        asyncio.run(scenario(issuer))


def test_a_gateway_that_accepts_tokens_alone_is_ready_once_it_has_keys() -> None:
    async def scenario(issuer: FakeIssuer) -> None:
        issuer.status = 503
        async with fake_pipeline(2) as pipeline:
            async with guarded_gateway(pipeline, auth=oidc(issuer, "keys,oidc")) as (_, caller):
                await caller.using(BOOTSTRAP.text).call(LIST)  # keys work without the issuer
                assert await outcome(caller, issuer.token()) == (grpc.StatusCode.UNAVAILABLE, "ISSUER_UNAVAILABLE")
            waiting = asyncio.create_task(until_ready(pipeline, issuer))
            await asyncio.sleep(1.0)
            assert not waiting.done()
            issuer.status = 200
            await waiting

    async def until_ready(pipeline: Any, issuer: FakeIssuer) -> None:
        async with guarded_gateway(pipeline, auth=oidc(issuer)) as (_, caller):
            await caller.using(issuer.token()).call(LIST)

    with fake_issuer(SigningKey("ec")) as issuer:
        asyncio.run(scenario(issuer))
