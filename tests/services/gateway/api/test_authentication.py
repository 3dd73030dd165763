"""Who is let through to the calls of a gateway, and who learns what."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from live_avatar.proxies import DIRECT
from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.authenticator import Authenticator, Claims, Credentials
from live_avatar.services.gateway.access.caller import Caller as Author
from live_avatar.services.gateway.access.caller import Scope, current_caller
from live_avatar.services.gateway.access.failure_limit import FailureLimit
from live_avatar.services.gateway.access.methods import Rule
from live_avatar.services.gateway.access.refusals import credential_invalid
from live_avatar.services.gateway.access.settings import AuthMode
from live_avatar.services.gateway.api.authentication import AuthenticationInterceptor
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.callers import BOOTSTRAP, Metadata, bearer, guarded_system, refused

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
LIST = api.ListSessionsRequest()
PEER = "ipv4:192.0.2.7:40000"


BAD: dict[str, tuple[Metadata, str]] = {
    "nothing": ((), "CREDENTIAL_MISSING"),
    "a name that ends in -bin": ((("authorization-bin", b"\x00\xff"),), "CREDENTIAL_MISSING"),
    "an empty value": ((("authorization", ""),), "CREDENTIAL_INVALID"),
    "no credential": ((("authorization", "Bearer"),), "CREDENTIAL_INVALID"),
    "another scheme": ((("authorization", f"Basic {BOOTSTRAP.text}"),), "CREDENTIAL_INVALID"),
    "no scheme": ((("authorization", BOOTSTRAP.text),), "CREDENTIAL_INVALID"),
    "two values": ((*bearer(BOOTSTRAP.text), *bearer(BOOTSTRAP.text)), "CREDENTIAL_INVALID"),
    "two words": (bearer(f"{BOOTSTRAP.text} more"), "CREDENTIAL_INVALID"),
    "half a key": (bearer(BOOTSTRAP.text[:-1]), "CREDENTIAL_INVALID"),
    "another secret": (bearer(ApiKey(BOOTSTRAP.key_id, ApiKey.generate().secret).text), "CREDENTIAL_INVALID"),
    "an unknown key": (bearer(ApiKey.generate().text), "CREDENTIAL_INVALID"),
    "no key": (bearer("eyJhbGciOiJub25lIn0.e30."), "CREDENTIAL_INVALID"),
}


def test_bad_credentials_get_a_reason_and_no_part_of_themselves() -> None:
    async def scenario() -> None:
        async with guarded_system() as caller:
            for name, (metadata, reason) in BAD.items():
                error = await refused(caller.saying(metadata).call(LIST))
                assert (error.code, error.reason) == (UNAUTHENTICATED, reason), name
                assert BOOTSTRAP.secret[:-1] not in error.message
            for scheme in ("Bearer ", "bearer ", "BEARER  "):
                await caller.saying((("authorization", f"{scheme}{BOOTSTRAP.text}"),)).call(LIST)

    asyncio.run(scenario())


def test_metadata_of_16_kb_ends_in_a_status() -> None:
    async def scenario() -> None:
        async with guarded_system() as caller:
            error = await refused(caller.using("a" * 16_384).call(LIST))
            assert error.code in (UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
            await caller.using(BOOTSTRAP.text).call(LIST)

    asyncio.run(scenario())


def test_above_the_rate_the_store_is_not_asked_and_known_credentials_pass() -> None:
    async def scenario() -> None:
        async with guarded_system(auth={"max_failures_per_minute": 6}) as caller:
            assert (await refused(caller.using(ApiKey.generate().text).call(LIST))).reason == "CREDENTIAL_INVALID"
            error = await refused(caller.using(ApiKey.generate().text).call(LIST))
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_FAILURES")
            assert error.retry_after_s and error.retry_after_s <= 10
            await caller.using(BOOTSTRAP.text).call(LIST)

    asyncio.run(scenario())


# The interceptor and the authenticator by themselves.


class Provider:
    """Accepts tokens that say whom they are of: ``TENANT/SUBJECT/SCOPE,SCOPE``."""

    def __init__(self) -> None:
        self.asked = 0

    async def verify(self, token: str) -> Claims:
        self.asked += 1
        parts = token.split("/")
        if len(parts) != 3:
            raise credential_invalid()
        return _Claims(*parts)


class _Claims:
    def __init__(self, tenant: str, subject: str, scopes: str) -> None:
        self.tenant, self.subject, self.scopes = tenant, subject, scopes.split(",")


def authenticator(provider: Provider, per_minute: int = 6_000) -> Authenticator:
    return Authenticator([AuthMode.OIDC], Credentials(verifier=provider), "default", FailureLimit(per_minute))


async def reason(who: Authenticator, token: str, rule: Scope | Rule = Rule.CREDENTIAL) -> str:
    with pytest.raises(ServiceError) as error:
        await who.authenticate(bearer(token), PEER, rule)
    return error.value.reason


def test_tokens_of_a_provider_become_callers() -> None:
    async def scenario() -> None:
        who = authenticator(Provider())
        caller = await who.authenticate(bearer("acme/ann/sessions,openid"), PEER, Scope.SESSIONS)
        assert caller == Author(
            tenant="acme", key_id="ann", scopes=frozenset({Scope.SESSIONS}), is_operator=False, peer="192.0.2.7"
        )
        assert (await who.authenticate(bearer("default/op/"), PEER, Rule.CREDENTIAL)).is_operator
        assert await reason(who, "acme/ann/usage", Scope.SESSIONS) == "SCOPE_MISSING"
        for tenant in ("", "ACME", "a:b", "a" * 64, "*"):
            assert await reason(who, f"{tenant}/ann/sessions") == "CREDENTIAL_INVALID"
        assert await reason(who, ApiKey.generate().text) == "CREDENTIAL_INVALID"

    asyncio.run(scenario())


def test_a_token_that_was_valid_is_checked_whatever_its_neighbours_did() -> None:
    async def scenario() -> None:
        provider = Provider()
        who = authenticator(provider, per_minute=6)
        good = bearer("acme/ann/sessions")
        await who.authenticate(good, PEER, Rule.CREDENTIAL)
        assert await reason(who, "wrong") == "CREDENTIAL_INVALID"
        asked = provider.asked
        for _ in range(100):
            assert await reason(who, "wrong") == "TOO_MANY_FAILURES"
        assert provider.asked == asked
        await who.authenticate(good, PEER, Rule.CREDENTIAL)
        assert provider.asked == asked + 1

    asyncio.run(scenario())


def test_a_mode_without_its_provider_is_refused() -> None:
    with pytest.raises(ValueError, match=r"auth\.mode oidc"):
        Authenticator([AuthMode.OIDC], Credentials(), "default", FailureLimit(60))


async def _one(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(0)
    return current_caller().key_id.encode()


async def _many(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(2):
        yield current_caller().key_id.encode()
        await asyncio.sleep(0)


async def _writes(requests: AsyncIterator[bytes], context: Any) -> None:
    async for _ in requests:
        await context.write(current_caller().key_id.encode())


@asynccontextmanager
async def echo() -> AsyncIterator[Any]:
    """A server whose calls answer with the id of their caller."""
    known, unknown = "live_avatar.v1.AvatarService", "live_avatar.v1.LaterService"
    calls: dict[str, Any] = {
        "ListSessions": grpc.unary_unary_rpc_method_handler(_one),
        "GetSession": grpc.unary_stream_rpc_method_handler(_many),
        "UpdateSession": grpc.stream_stream_rpc_method_handler(_writes),
    }
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(), AuthenticationInterceptor(authenticator(Provider(), 60_000))]
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(known, calls),
            grpc.method_handlers_generic_handler(unknown, {"Do": grpc.unary_unary_rpc_method_handler(_one)}),
        )
    )
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(target, options=DIRECT) as channel:
            yield channel
    finally:
        await server.stop(None)


def test_every_kind_of_call_knows_its_own_caller() -> None:
    async def scenario() -> None:
        async with echo() as channel:
            service = "/live_avatar.v1.AvatarService"

            async def call(subject: str) -> set[bytes]:
                metadata = bearer(f"acme/{subject}/sessions")
                received = {await channel.unary_unary(f"{service}/ListSessions")(b"", metadata=metadata, timeout=20)}
                async for answer in channel.unary_stream(f"{service}/GetSession")(b"", metadata=metadata, timeout=20):
                    received.add(answer)
                both = channel.stream_stream(f"{service}/UpdateSession")(iter([b"", b""]), metadata=metadata)
                async for answer in both:
                    received.add(answer)
                return received

            subjects = [f"subject-{number}" for number in range(20)]
            answers = await asyncio.gather(*map(call, subjects))
            assert answers == [{subject.encode()} for subject in subjects]

    asyncio.run(scenario())


def test_health_is_open_and_what_has_no_rule_is_denied() -> None:
    async def scenario() -> None:
        async with echo() as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            call = channel.unary_unary("/live_avatar.v1.LaterService/Do")
            error = await refused(call(b"", metadata=bearer("default/op/admin"), timeout=20))
            assert (error.code, error.reason) == (DENIED, "METHOD_DENIED")
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await channel.unary_unary("/live_avatar.v1.AvatarService/None")(b"", timeout=20)
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(scenario())
