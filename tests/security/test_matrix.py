"""Every RPC with every kind of credential on each of two gateways that share a store."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from live_avatar.services.gateway.access.caller import ALL_SCOPES, Scope
from live_avatar.services.gateway.access.methods import METHODS, Rule
from live_avatar.serving.errors import ServiceError, from_rpc_error
from live_avatar.v1 import admin_service_pb2 as admin
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1 import usage_service_pb2 as usage
from tests.services.gateway.callers import BOOTSTRAP, RPCS, Caller, guarded_gateway, refused
from tests.services.gateway.clients import create_request
from tests.services.gateway.fake_pipeline import fake_pipeline

ROOT = Path(__file__).parents[2]
TENANT, OTHER = "acme", "other"
GUIDE = ROOT / "docs" / "guides" / "access.md"
LIMITS = {"max_calls_per_second": 100_000, "max_calls_per_caller": 10_000}
OK = "OK"
KINDS = ("none", "wrong", "expired", "revoked", "other tenant", "missing scope", "right")
"""Of credentials."""
HIDDEN = {"GetSession", "UpdateSession", "InterruptSession", "CloseSession"}
"""Calls about one session."""
NAMES_TENANT = {"CreateApiKey", "ListApiKeys", "GetQuotas", "UpdateQuotas", "ListUsage"}
"""Calls whose request names a tenant."""


@dataclass(frozen=True)
class Installation:
    """Two gateways, and what their callers hold."""

    gateways: Mapping[str, Caller]
    keys: Mapping[str, str]
    """Credentials by their kind."""
    lacking: Mapping[Scope, str]
    """Keys that have all scopes but one."""
    session: api.CreateSessionResponse
    """Of TENANT, held by gateway A."""
    key_id: str
    """A key of TENANT."""

    @property
    def operator(self) -> Caller:
        """The operator, on gateway A."""
        return self.gateways["A"].using(BOOTSTRAP.text)

    def cells(self, rpcs: Iterable[str]) -> Iterator[tuple[str, str, str, Caller]]:
        """Kind of credential, RPC, gateway, and who calls it with that credential."""
        for kind, rpc, name in itertools.product(KINDS, rpcs, self.gateways):
            rule, caller = rule_of_rpc(rpc), self.gateways[name]
            if kind == "none":
                yield kind, rpc, name, caller
            elif kind != "missing scope":
                yield kind, rpc, name, caller.using(self.keys[kind])
            elif isinstance(rule, Scope):
                yield kind, rpc, name, caller.using(self.lacking[rule])

    def requests(self) -> dict[str, Message]:
        """A request of every RPC but StreamAvatar, about TENANT where it names one; the end of the session last."""
        name, update = self.session.session.session_id, api.UpdateSessionRequest
        config = api.SessionConfig(prompt="p")
        requests: list[Message] = [
            create_request(),
            api.GetSessionRequest(session_id=name),
            api.ListSessionsRequest(),
            update(session_id=name, config=config, update_mask=FieldMask(paths=["prompt"])),
            api.InterruptSessionRequest(session_id=name),
            api.GetServerInfoRequest(),
            admin.CreateApiKeyRequest(tenant=TENANT, scopes=["sessions"]),
            admin.ListApiKeysRequest(tenant=TENANT),
            admin.RevokeApiKeyRequest(key_id=self.key_id),
            admin.GetQuotasRequest(tenant=TENANT),
            admin.UpdateQuotasRequest(tenant=TENANT, quotas=admin.Quotas(max_frame_pixels=0)),
            usage.ListUsageRequest(tenant=TENANT),
            api.CloseSessionRequest(session_id=name),
        ]
        return {type(request).__name__.removesuffix("Request"): request for request in requests}


@asynccontextmanager
async def installation(redis_server: str) -> AsyncIterator[Installation]:
    settings = {"store": {"url": redis_server}, "token_key": "shared by both", "limits": LIMITS}
    async with (
        fake_pipeline(64) as pipeline,
        guarded_gateway(pipeline, **settings) as (_, first),
        guarded_gateway(pipeline, **settings) as (_, second),
    ):
        operator = first.using(BOOTSTRAP.text)
        expiring = await made(operator, lifetime=Duration(nanos=100_000_000))
        revoked, key = await made(operator), await made(operator)
        await operator.call(admin.RevokeApiKeyRequest(key_id=revoked.split("_")[1]))
        spare = await made(operator)
        yield Installation(
            gateways={"A": first, "B": second},
            keys={
                "wrong": f"{key[:-4]}{'AAAA' if key[-4:] != 'AAAA' else 'BBBB'}",
                "expired": expiring,
                "revoked": revoked,
                "other tenant": await made(operator, OTHER),
                "right": key,
            },
            lacking={scope: await made(operator, scopes=ALL_SCOPES - {scope}) for scope in Scope},
            session=await first.using(key).call(create_request()),
            key_id=spare.split("_")[1],
        )


async def made(
    operator: Caller, tenant: str = TENANT, scopes: frozenset[Scope] = ALL_SCOPES, lifetime: Duration | None = None
) -> str:
    """A new key."""
    request = admin.CreateApiKeyRequest(tenant=tenant, scopes=sorted(scopes), lifetime=lifetime)
    secret: str = (await operator.call(request)).secret
    return secret


async def outcome(call: Awaitable[object]) -> str:
    """The reason of a failed call, else OK."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return OK


def expected(kind: str, rpc: str) -> set[str]:
    """Outcomes that are right for a credential of a kind; that of the right one depends on the state of the session."""
    reason = {
        "none": "CREDENTIAL_MISSING",
        "wrong": "CREDENTIAL_INVALID",
        "expired": "CREDENTIAL_EXPIRED",
        "revoked": "KEY_REVOKED",
        "missing scope": "SCOPE_MISSING",
    }.get(kind)
    if reason is not None:
        return {reason}
    if kind == "other tenant":
        return {
            **{name: {"SESSION_NOT_FOUND"} for name in HIDDEN},
            **{name: {"TENANT_FORBIDDEN"} for name in NAMES_TENANT},
            "RevokeApiKey": {"API_KEY_NOT_FOUND"},
        }.get(rpc, {OK})
    # The session is not streamed and held by A: past all checks of the caller.
    return {
        "UpdateSession": {"STREAM_NOT_OPEN"},
        "InterruptSession": {"NOT_LIVE", "STREAM_NOT_OPEN"},
        "UpdateQuotas": {"TENANT_FORBIDDEN"},  # the operator's alone
    }.get(rpc, {OK})


def test_every_rpc_with_every_credential_on_both_gateways(redis_server: str) -> None:
    async def scenario() -> None:
        async with installation(redis_server) as on:
            await asyncio.sleep(0.2)  # the one that expires
            requests = on.requests()
            assert set(requests) == set(RPCS) - {"StreamAvatar"}
            cells = list(on.cells(requests))
            assert len(cells) == 2 * (7 * len(requests) - 1)
            wrong = []
            for kind, rpc, name, caller in cells:
                result = await outcome(caller.call(requests[rpc]))
                if result not in expected(kind, rpc):
                    wrong.append(f"{rpc} with {kind} on {name}: {result}, not {expected(kind, rpc)}")
            assert wrong == []
            for gateway in on.gateways.values():
                request = requests["UpdateQuotas"]
                assert await outcome(gateway.using(BOOTSTRAP.text).call(request)) == OK

    asyncio.run(scenario())


def rule_of_rpc(rpc: str) -> Scope | Rule:
    return METHODS[f"/{RPCS[rpc].containing_service.full_name}/{rpc}"]


def test_a_stream_is_opened_by_its_token_and_by_no_credential_alone(redis_server: str) -> None:
    async def scenario() -> None:
        async with installation(redis_server) as on:
            await asyncio.sleep(0.2)
            token = on.session.session_token
            reasons = {
                "wrong": "CREDENTIAL_INVALID",
                "expired": "CREDENTIAL_EXPIRED",
                "revoked": "KEY_REVOKED",
                "other tenant": "SESSION_NOT_FOUND",
            }
            for gateway in on.gateways.values():
                for kind, reason in reasons.items():
                    assert await outcome(gateway.using(on.keys[kind]).open(token)) == reason, kind
                for forged in ("", token[:-1], token.replace(f".{TENANT}.", f".{OTHER}.")):
                    assert await outcome(gateway.using(on.keys["right"]).open(forged)) == "TOKEN_INVALID"
            opened = await on.gateways["B"].open(token)
            assert opened.opened.session.session_id == on.session.session.session_id

    asyncio.run(scenario())


def test_another_tenants_session_looks_like_none(redis_server: str) -> None:
    async def scenario() -> None:
        async with installation(redis_server) as on:
            name = on.session.session.session_id
            for gateway in on.gateways.values():
                stranger = gateway.using(on.keys["other tenant"])
                for make in (session_request(api.GetSessionRequest), session_request(api.CloseSessionRequest)):
                    theirs, unknown = (
                        await refused(stranger.call(make(name))),
                        await refused(stranger.call(make("f" * 32))),
                    )
                    assert words(theirs, name) == words(unknown, "f" * 32)
                listed = await stranger.call(api.ListSessionsRequest())
                assert name not in {one.session_id for one in listed.sessions}
                error = await refused(stranger.call(api.ListSessionsRequest(page_token=name)))
                assert error.reason == "PAGE_TOKEN_INVALID"
                info = await stranger.call(api.GetServerInfoRequest())
                assert (info.sessions_open, list(info.pipelines)) == (0, [])
            assert (await on.operator.call(api.GetServerInfoRequest())).sessions_open == 1

    asyncio.run(scenario())


def session_request(kind: type[Message]) -> Callable[[str], Message]:
    return lambda name: kind(session_id=name)


def words(error: ServiceError, name: str) -> tuple[object, ...]:
    """Everything that a caller sees of an error, without the id that it sent."""
    metadata = {key: value.replace(name, "") for key, value in error.metadata.items()}
    return error.code, error.reason, error.message, metadata, error.field, error.retry_after_s


def test_a_revoked_key_stops_on_the_other_gateway_within_5_seconds(redis_server: str) -> None:
    async def scenario() -> None:
        async with installation(redis_server) as on:
            user = on.gateways["B"].using(on.keys["right"])
            await user.call(api.ListSessionsRequest())
            await on.operator.call(admin.RevokeApiKeyRequest(key_id=on.keys["right"].split("_")[1]))
            began = time.monotonic()
            while (result := await outcome(user.call(api.ListSessionsRequest()))) == OK:
                assert time.monotonic() - began < 5
                await asyncio.sleep(0.05)
            assert result == "KEY_REVOKED"
            # The session that it created goes on.
            other = on.gateways["A"].using(on.lacking[Scope.USAGE])
            name = on.session.session.session_id
            assert (await other.call(api.GetSessionRequest(session_id=name))).session.state == api.Session.STATE_ACTIVE

    asyncio.run(scenario())


def test_request_ids_are_those_of_a_tenant(redis_server: str) -> None:
    async def scenario() -> None:
        async with installation(redis_server) as on:
            request = create_request()
            request.request_id = "the same for everybody"
            callers = [
                gateway.using(on.keys[kind]) for kind in ("right", "other tenant") for gateway in on.gateways.values()
            ]
            answers = await asyncio.gather(*(caller.call(request) for caller in callers for _ in range(25)))
            ours, theirs = answers[:50], answers[50:]
            for one in (ours, theirs):
                assert len({(answer.session.session_id, answer.session_token) for answer in one}) == 1
            assert ours[0].session.session_id != theirs[0].session.session_id

    asyncio.run(scenario())


def test_the_guide_lists_what_every_rpc_needs() -> None:
    text = GUIDE.read_text()
    for row in rows():
        assert f"{row}\n" in text


def rows() -> list[str]:
    """The table of docs/guides/access.md."""
    words = {Rule.CREDENTIAL: "any credential", Rule.SESSION_TOKEN: "the session token"}
    return [
        f"| `{method.removeprefix('/live_avatar.v1.').replace('/', '.')}` | "
        f"{words[rule] if isinstance(rule, Rule) else f'scope `{rule}`'} |"
        for method, rule in METHODS.items()
    ]
