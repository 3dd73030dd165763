"""What calls leave in the audit."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.admin_service_pb2 import CreateApiKeyRequest, GetQuotasRequest, ListApiKeysRequest
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.access.fake_issuer import SigningKey, fake_issuer
from tests.services.gateway.callers import BOOTSTRAP, Caller, guarded_system, refused
from tests.services.gateway.clients import Talk, create_request, tone, whole_system

LIST = api.ListSessionsRequest()


@asynccontextmanager
async def audited(path: Path, **settings: Any) -> AsyncIterator[Caller]:
    """A caller of a gateway whose audit is complete at ``path`` when this ends."""
    async with guarded_system(audit={"path": str(path)}, **settings) as caller:
        yield caller


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_session_is_recorded_from_creation_to_end(tmp_path: Path) -> None:
    path = tmp_path / "audit"

    async def scenario() -> None:
        async with audited(path) as anyone:
            caller = anyone.using(BOOTSTRAP.text)
            made = await caller.call(create_request())
            await caller.call(LIST)
            await caller.call(api.GetSessionRequest(session_id=made.session.session_id))
            async with Talk(AvatarServiceStub(anyone.channel)) as talk:
                await talk.open(made.session_token)
                await talk.speak(tone(16_000))
                change = api.StreamAvatarRequest.Update(config=api.SessionConfig(prompt="another"))
                change.update_mask.paths.append("prompt")
                await talk.say(update=change)
                await talk.finish()
                await talk.rest()
            second = await caller.call(create_request())
            await caller.call(api.CloseSessionRequest(session_id=second.session.session_id))

    asyncio.run(scenario())
    found = records(path)
    first, second = (record["session_id"] for record in found if record["action"] == "CreateSession")
    of_first = [record["action"] for record in found if record["session_id"] == first]
    assert of_first[:3] == ["CreateSession", "StreamAvatar.opened", "StreamAvatar.update"]
    assert sorted(of_first[3:]) == ["SessionEnded", "StreamAvatar"]
    of_second = [record["action"] for record in found if record["session_id"] == second]
    assert sorted(of_second) == ["CloseSession", "CreateSession", "SessionEnded"]
    assert {(record["tenant"], record["key_id"], record["code"]) for record in found} == {
        ("default", BOOTSTRAP.key_id, "OK")
    }
    assert {record["peer"] for record in found if record["action"] != "SessionEnded"} == {"127.0.0.1"}


def test_rejected_callers_are_recorded_with_what_is_known_of_them(tmp_path: Path) -> None:
    path, unknown = tmp_path / "audit", ApiKey.generate()

    async def scenario() -> None:
        with fake_issuer(SigningKey("ec")) as issuer:
            oidc = {"issuer": issuer.url, "audience": "live-avatar", "tenant_claim": "tenant"}
            async with audited(path, auth={"mode": "keys,oidc", "oidc": oidc}) as caller:
                await refused(caller.call(LIST))
                await refused(caller.using(unknown.text).call(LIST))
                await refused(caller.using(issuer.token(scope="usage")).call(LIST))
                await refused(caller.using(BOOTSTRAP.text).call(api.CloseSessionRequest(session_id="a" * 32)))
                with suppress(grpc.aio.AioRpcError):
                    await caller.open("las_no.token")

    asyncio.run(scenario())
    found = {record["reason"]: record for record in records(path)}
    assert found["CREDENTIAL_MISSING"]["key_id"] == found["CREDENTIAL_MISSING"]["tenant"] == ""
    assert (found["CREDENTIAL_INVALID"]["key_id"], found["CREDENTIAL_INVALID"]["tenant"]) == (unknown.key_id, "")
    assert (found["SCOPE_MISSING"]["key_id"], found["SCOPE_MISSING"]["tenant"]) == ("robot", "team-a")
    assert found["SESSION_NOT_FOUND"]["session_id"] == "a" * 32
    assert (found["TOKEN_INVALID"]["action"], found["TOKEN_INVALID"]["code"]) == ("StreamAvatar", "UNAUTHENTICATED")


def test_a_flood_of_failures_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit"

    async def scenario() -> None:
        async with audited(path) as caller:
            stranger = caller.using(ApiKey.generate().text)
            await asyncio.gather(*(refused(stranger.call(LIST)) for _ in range(200)))

    asyncio.run(scenario())
    found = records(path)
    assert sum(record.get("repeated", 1) for record in found) == 200
    assert len(found) < 100


def test_failures_of_different_callers_and_actions_are_recorded_apart(tmp_path: Path) -> None:
    path = tmp_path / "audit"

    async def scenario() -> None:
        async with audited(path) as caller:
            operator = caller.using(BOOTSTRAP.text)
            keys = [
                await operator.call(CreateApiKeyRequest(tenant=tenant, scopes=["sessions"]))
                for tenant in ("team-a", "team-b")
            ]
            for key in keys:
                await refused(caller.using(key.secret).call(ListApiKeysRequest()))
                await refused(caller.using(key.secret).call(GetQuotasRequest()))

    asyncio.run(scenario())
    denied = [record for record in records(path) if record["reason"] == "SCOPE_MISSING"]
    assert {(record["tenant"], record["action"]) for record in denied} == {
        (tenant, action) for tenant in ("team-a", "team-b") for action in ("ListApiKeys", "GetQuotas")
    }


def test_where_callers_are_not_authenticated_the_address_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "audit"

    async def scenario() -> None:
        async with whole_system(settings={"audit": {"path": str(path)}}) as gateway:
            await gateway.create()

    asyncio.run(scenario())
    made = next(record for record in records(path) if record["action"] == "CreateSession")
    assert (made["tenant"], made["key_id"], made["peer"]) == ("default", "", "127.0.0.1")
