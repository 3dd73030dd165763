"""The port on which gateways call each other: who is let in, what may be called, and whose address is believed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from live_avatar.proxies import DIRECT
from live_avatar.services.gateway.relay.address import advertised
from live_avatar.services.gateway.relay.channels import Channels
from live_avatar.services.gateway.relay.failures import HolderLostError
from live_avatar.services.gateway.relay.listener import RelayListener
from live_avatar.services.gateway.relay.metadata import PEER, RelayedContext, passed_on
from live_avatar.services.gateway.relay.relayed import RelayedCallInterceptor
from live_avatar.services.gateway.relay.settings import RelaySettings
from live_avatar.services.gateway.store.records import session_key
from live_avatar.serving.telemetry import Telemetry
from live_avatar.serving.tls import ClientTls
from live_avatar.v1 import avatar_service_pb2 as api
from tests.security.installation import FOREIGN, GATEWAY, Files, stranger
from tests.security.test_matrix import installation, outcome
from tests.services.gateway.callers import Caller
from tests.services.gateway.clients import create_request

CLOSE = api.CloseSessionRequest(session_id="0" * 32)
PEER_VALUE = "ipv4:192.0.2.7:1"


async def close(request: bytes, context: Any) -> bytes:
    """An answer that says who called."""
    return api.CloseSessionResponse(session=api.Session(session_id=context.peer())).SerializeToString()


def serve_calls(server: grpc.aio.Server) -> None:
    """Two methods, of which gateways pass on one."""
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(close) for name in ("CloseSession", "CreateSession")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("live_avatar.v1.AvatarService", handlers),))


@asynccontextmanager
async def listening(settings: RelaySettings) -> AsyncIterator[str]:
    with Telemetry("gateway") as telemetry:
        interceptors = (RelayedCallInterceptor(),)
        listener = RelayListener(settings, "127.0.0.1", "redis://127.0.0.1:1/0", telemetry, interceptors)
        async with listener.serving(serve_calls):
            yield listener.address


async def relay_of(redis: Redis, session_id: str) -> str:
    """Where other gateways reach the one that holds a session."""
    address: Any = await redis.hget(session_key(session_id), "relay")
    return str(address.decode())


async def closes(channel: grpc.aio.Channel, metadata: Any = ()) -> str:
    """The peer as the servicer sees it, or how the call failed."""
    try:
        async with channel:
            return str((await Caller(channel, metadata).call(CLOSE)).session.session_id)
    except grpc.aio.AioRpcError as error:
        return error.code().name


def test_only_gateways_with_a_certificate_are_let_in(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, other = Files(tmp_path / "a", [GATEWAY]), Files(tmp_path / "b", ["other.live-avatar"])
        foreign = Files(tmp_path / "c", [GATEWAY], by=FOREIGN)
        name = (("grpc.ssl_target_name_override", GATEWAY), *DIRECT)
        async with listening(RelaySettings(tls=ours.server(mutual=True, allowed=[GATEWAY]))) as address:
            with Telemetry("client") as telemetry:
                results = [
                    await closes(ClientTls(files.client(GATEWAY), telemetry).channel(address, DIRECT))
                    for files in (ours, other, foreign)
                ]
            results.append(await closes(grpc.aio.secure_channel(address, stranger(), options=name)))
            results.append(await closes(grpc.aio.insecure_channel(address, options=DIRECT)))
        assert results[0].startswith("ipv4:127.0.0.1:")
        assert results[1:] == ["PERMISSION_DENIED", "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"]

    asyncio.run(scenario())


def test_the_other_gateway_names_the_caller_and_nothing_else_is_served() -> None:
    async def scenario() -> None:
        async with listening(RelaySettings()) as address:
            assert await closes(grpc.aio.insecure_channel(address), ((PEER, PEER_VALUE),)) == PEER_VALUE
            async with grpc.aio.insecure_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await Caller(channel).call(create_request())
                assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(scenario())


def test_credentials_are_checked_again_and_a_call_is_passed_on_once(redis_server: str) -> None:
    async def scenario() -> None:
        async with installation(redis_server) as on, Redis.from_url(redis_server) as redis:
            name = on.session.session.session_id
            request = api.InterruptSessionRequest(session_id=name)
            holder = await relay_of(redis, name)
            async with grpc.aio.insecure_channel(holder, options=DIRECT) as channel:
                caller = Caller(channel)
                assert await outcome(caller.call(request)) == "CREDENTIAL_MISSING"
                assert await outcome(caller.using(on.keys["wrong"]).call(request)) == "CREDENTIAL_INVALID"
                assert await outcome(caller.using(on.keys["other tenant"]).call(request)) == "SESSION_NOT_FOUND"
                assert await outcome(caller.using(on.keys["right"]).call(request)) == "NOT_LIVE"
            second = await on.gateways["B"].using(on.keys["right"]).call(create_request())
            other = await relay_of(redis, second.session.session_id)
            async with grpc.aio.insecure_channel(other, options=DIRECT) as channel:
                assert await outcome(Caller(channel).using(on.keys["right"]).call(request)) == "SESSION_MOVED"
            # An address at which another process than the holder answers by now.
            await redis.hset(session_key(second.session.session_id), "relay", holder)
            about = api.InterruptSessionRequest(session_id=second.session.session_id)
            assert await outcome(on.gateways["A"].using(on.keys["right"]).call(about)) == "GATEWAY_LOST"

    asyncio.run(scenario())


def test_metadata_of_the_caller_goes_along_and_none_that_is_ours_to_say() -> None:
    given = (
        ("authorization", "Bearer a"),
        ("traceparent", "00-1-2-01"),
        ("custom-bin", b"\0"),
        (PEER, "ipv4:9.9.9.9:1"),
        ("user-agent", "me"),
        ("grpc-timeout", "1S"),
    )
    assert passed_on(given, PEER_VALUE) == (*given[:3], (PEER, PEER_VALUE))


def test_without_a_name_the_peer_is_the_other_gateway() -> None:
    class Context:
        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return ()

        def peer(self) -> str:
            return PEER_VALUE

    assert RelayedContext(Context()).peer() == PEER_VALUE


@pytest.mark.parametrize(
    ("address", "host", "found"),
    [
        ("", "127.0.0.1", "127.0.0.1:7"),
        ("", "::1", "[::1]:7"),
        ("", "[::1]", "[::1]:7"),
        ("", "0.0.0.0", "127.0.0.1:7"),
        ("10.1.2.3", "0.0.0.0", "10.1.2.3:7"),
        ("10.1.2.3:9", "0.0.0.0", "10.1.2.3:9"),
        ("fd00::1", "::", "[fd00::1]:7"),
        ("[fd00::1]:9", "::", "[fd00::1]:9"),
        ("gateway-0", "0.0.0.0", "gateway-0:7"),
    ],
)
def test_the_address_for_others(address: str, host: str, found: str) -> None:
    assert advertised(address, host, 7, "redis://127.0.0.1:6379/0") == found


def test_connections_are_shared_replaced_after_a_loss_and_closed_when_idle() -> None:
    async def scenario() -> None:
        channels = Channels(None, idle_s=0.2, lost_s=1)
        running = asyncio.create_task(channels.run())
        async with channels.borrow("127.0.0.1:1") as first, channels.borrow("127.0.0.1:1") as again:
            assert first is again
            with pytest.raises(HolderLostError):
                async with channels.borrow("127.0.0.1:1"):
                    raise HolderLostError("gone")
            async with channels.borrow("127.0.0.1:1") as second:
                assert second is not first
                assert len(channels) == 2
        async with asyncio.timeout(10):
            while len(channels):  # noqa: ASYNC110 - its own task closes them
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(scenario())
