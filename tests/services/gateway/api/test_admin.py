"""API keys by the calls of AdminService."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import admin_service_pb2 as api
from live_avatar.v1 import avatar_service_pb2 as avatar
from tests.services.gateway.callers import BOOTSTRAP, Caller, guarded_system, refused

INVALID, DENIED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def wanted(tenant: str = "", scopes: tuple[str, ...] = ("sessions",), **more: Any) -> api.CreateApiKeyRequest:
    return api.CreateApiKeyRequest(tenant=tenant, scopes=scopes, **more)


@dataclass(frozen=True)
class Platform:
    """An operator, and the administrator of one tenant."""

    operator: Caller
    admin: Caller


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    async with guarded_system() as caller:
        operator = caller.using(BOOTSTRAP.text)
        made = await operator.call(wanted("acme", ("admin", "sessions"), name="of acme's administrator"))
        yield Platform(operator, caller.using(made.secret))


def outcome(error: ServiceError) -> tuple[grpc.StatusCode, str, str | None]:
    return error.code, error.reason, error.field


def test_a_key_works_until_it_is_revoked_and_its_secret_is_shown_once() -> None:
    async def scenario() -> None:
        async with platform() as on:
            made = await on.admin.call(wanted(name="first"))
            assert (made.api_key.tenant, list(made.api_key.scopes), made.api_key.name) == (
                "acme", ["sessions"], "first",
            )  # fmt: skip
            assert made.secret.startswith(f"la_{made.api_key.key_id}_")
            user = on.admin.using(made.secret)
            await user.call(avatar.ListSessionsRequest())
            listed = await on.admin.call(api.ListApiKeysRequest())
            assert [key.name for key in listed.api_keys] == ["first", "of acme's administrator"]
            assert made.secret.split("_", 2)[2] not in str(listed)
            revoked = await on.admin.call(api.RevokeApiKeyRequest(key_id=made.api_key.key_id))
            assert revoked.api_key.HasField("revoke_time")
            assert await on.admin.call(api.RevokeApiKeyRequest(key_id=made.api_key.key_id)) == revoked
            assert (await refused(user.call(avatar.ListSessionsRequest()))).reason == "KEY_REVOKED"

    asyncio.run(scenario())


def test_a_lifetime_ends_a_key() -> None:
    async def scenario() -> None:
        async with platform() as on:
            made = await on.admin.call(wanted(lifetime=Duration(nanos=200_000_000)))
            assert made.api_key.expire_time.ToMilliseconds() - made.api_key.create_time.ToMilliseconds() == 200
            await asyncio.sleep(0.3)
            error = await refused(on.admin.using(made.secret).call(avatar.ListSessionsRequest()))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED")
            years = await on.admin.call(wanted(lifetime=Duration(seconds=10 * 365 * 86_400)))
            assert years.api_key.HasField("expire_time")

    asyncio.run(scenario())


def test_requests_that_cannot_be_are_named() -> None:
    bad = {
        "no scope": (wanted(scopes=()), "SCOPES_INVALID", "scopes"),
        "another scope": (wanted(scopes=("everything",)), "SCOPES_INVALID", "scopes"),
        "a tenant that is a pattern": (wanted("*"), "TENANT_INVALID", "tenant"),
        "a tenant that is a key": (wanted("a:b"), "TENANT_INVALID", "tenant"),
        "a long tenant": (wanted("a" * 64), "TENANT_INVALID", "tenant"),
        "a long name": (wanted(name="a" * 101), "NAME_TOO_LONG", "name"),
        "a name that moves the cursor": (wanted(name="a\x1b[2J"), "NAME_UNPRINTABLE", "name"),
        "no lifetime": (wanted(lifetime=Duration()), "DURATION_OUT_OF_RANGE", "lifetime"),
        "a negative lifetime": (wanted(lifetime=Duration(seconds=-1)), "DURATION_OUT_OF_RANGE", "lifetime"),
        "an endless lifetime": (wanted(lifetime=Duration(seconds=2**40)), "DURATION_OUT_OF_RANGE", "lifetime"),
        "a negative page": (api.ListApiKeysRequest(page_size=-1), "PAGE_SIZE_OUT_OF_RANGE", "page_size"),
        "an unknown page": (api.ListApiKeysRequest(page_token="x"), "PAGE_TOKEN_INVALID", "page_token"),
    }

    async def scenario() -> None:
        async with platform() as on:
            for name, (request, reason, field) in bad.items():
                assert outcome(await refused(on.operator.call(request))) == (INVALID, reason, field), name

    asyncio.run(scenario())


def test_tenants_manage_their_own_keys_and_give_no_more_than_they_have() -> None:
    async def scenario() -> None:
        async with platform() as on:
            theirs = await on.operator.call(wanted("other", ("sessions",)))
            error = await refused(on.admin.call(wanted("other")))
            assert (error.code, error.reason) == (DENIED, "TENANT_FORBIDDEN")
            for tenant in ("other", "*"):
                error = await refused(on.admin.call(api.ListApiKeysRequest(tenant=tenant)))
                assert (error.code, error.reason) == (DENIED, "TENANT_FORBIDDEN")
            error = await refused(on.admin.call(wanted(scopes=("sessions", "usage"))))
            assert (error.code, error.reason, error.metadata) == (DENIED, "SCOPE_MISSING", {"scope": "usage"})
            hidden = await refused(on.admin.call(api.RevokeApiKeyRequest(key_id=theirs.api_key.key_id)))
            unknown = await refused(on.admin.call(api.RevokeApiKeyRequest(key_id="nobody")))
            assert outcome(hidden) == outcome(unknown) == (NOT_FOUND, "API_KEY_NOT_FOUND", "key_id")
            assert hidden.message == unknown.message
            error = await refused(on.admin.call(api.ListApiKeysRequest(page_token=theirs.api_key.key_id)))
            assert error.reason == "PAGE_TOKEN_INVALID"
            await on.operator.using(theirs.secret).call(avatar.ListSessionsRequest())

    asyncio.run(scenario())


def test_the_operator_acts_for_all_and_pages_end() -> None:
    async def scenario() -> None:
        async with platform() as on:
            for number in range(4):
                await on.operator.call(wanted("other", ("usage", "avatars"), name=f"{number}"))
            names, token = [], ""
            while True:
                page = await on.operator.call(api.ListApiKeysRequest(tenant="*", page_size=2, page_token=token))
                names += [key.name for key in page.api_keys]
                token = page.next_page_token
                if not token:
                    break
            assert sorted(names) == ["0", "1", "2", "3", "of acme's administrator"]
            others = await on.operator.call(api.ListApiKeysRequest(tenant="other"))
            assert len(others.api_keys) == 4
            ended = await on.operator.call(api.RevokeApiKeyRequest(key_id=others.api_keys[0].key_id))
            assert ended.api_key.HasField("revoke_time")
            error = await refused(on.operator.call(api.RevokeApiKeyRequest(key_id=BOOTSTRAP.key_id)))
            assert error.reason == "API_KEY_NOT_FOUND"

    asyncio.run(scenario())
