"""TLS of servers and clients: who is let in, who is not and is told why, and certificates that change meanwhile."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from live_avatar.client import AvatarClient, AvatarError
from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest, StreamBlocksResponse
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.observer import NoObserver
from live_avatar.serving.peer_names import PeerNames
from live_avatar.serving.settings import ClientTlsSettings, ServerTlsSettings
from live_avatar.serving.streams.client import Connection
from live_avatar.serving.timing import HopTiming
from live_avatar.serving.tls import ClientTls, ServerTls

from .installation import DAY, FOREIGN, GATEWAY, OURS, PIPELINE, Files, handshake, in_event_loop, stranger

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
EXPIRED = timedelta(hours=-1)
NAMES = (PIPELINE, "127.0.0.1")


@dataclass
class Certificates(NoObserver):
    """What was told of certificates."""

    loaded: list[tuple[str, float]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def certificate_loaded(self, side: str, expires_s: float) -> None:
        self.loaded.append((side, expires_s))

    def certificate_rejected(self, side: str) -> None:
        self.rejected.append(side)


@dataclass
class Running:
    """A server with health alone."""

    port: int
    health: health.aio.HealthServicer

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(settings: ServerTlsSettings | None, observer: NoObserver | None = None) -> AsyncIterator[Running]:
    """A server on a free port; plain text without settings."""
    names = settings.allowed_names if settings else ()
    server = grpc.aio.server(interceptors=[ErrorInterceptor(), *([PeerNames(names)] if names else [])])
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if settings is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", ServerTls(settings, observer or NoObserver()).credentials())
    await server.start()
    try:
        yield Running(port, servicer)
    finally:
        await server.stop(None)


def health_of(channel: grpc.aio.Channel) -> Any:
    """The standard health service, whose stubs know nothing of asyncio."""
    return health_pb2_grpc.HealthStub(channel)


async def check(channel: grpc.aio.Channel) -> int:
    async with channel:
        answer = await health_of(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return int(answer.status)


def own(tmp_path: Path, names: Sequence[str] = NAMES) -> Files:
    return Files(tmp_path / "server", names)


REFUSED: dict[str, tuple[grpc.ChannelCredentials | None, str]] = {
    "plain text": (None, "wants TLS"),
    "another authority": (stranger(FOREIGN), "no authority that is trusted"),
    "no certificate": (stranger(), "a certificate of the client"),
    "a certificate by a foreign authority": (
        grpc.ssl_channel_credentials(OURS.certificate_pem, *FOREIGN.issue([GATEWAY], DAY)[::-1]),
        "a certificate of the client",
    ),
    "an expired certificate": (
        grpc.ssl_channel_credentials(OURS.certificate_pem, *OURS.issue([GATEWAY], EXPIRED)[::-1]),
        "a certificate of the client",
    ),
}


@pytest.mark.parametrize("who", REFUSED)
@in_event_loop
async def test_a_server_that_demands_certificates_answers_nobody_without(who: str, tmp_path: Path) -> None:
    credentials, fault = REFUSED[who]
    async with serving(own(tmp_path).server(mutual=True)) as server, AvatarClient(server.target, credentials) as client:
        with pytest.raises(AvatarError, match=fault) as caught:
            await client.server_info()
    assert (caught.value.reason, caught.value.code) == ("TLS_FAILED", grpc.StatusCode.UNAVAILABLE)


BAD_SERVERS = {
    "wrong name": "not for the name",
    "foreign": "no authority that is trusted",
    "plain": "does not speak TLS",
}


@pytest.mark.parametrize("fault", BAD_SERVERS)
@in_event_loop
async def test_the_client_says_what_is_wrong_with_the_server(fault: str, tmp_path: Path) -> None:
    files = own(tmp_path, ["other"] if fault == "wrong name" else NAMES)
    async with serving(None if fault == "plain" else files.server()) as server:
        client = AvatarClient(server.target, stranger(FOREIGN if fault == "foreign" else OURS))
        async with client:
            with pytest.raises(AvatarError, match=BAD_SERVERS[fault]) as caught:
                await client.server_info()
    assert caught.value.reason == "TLS_FAILED"


@in_event_loop
async def test_a_certificate_that_expired_meanwhile_is_refused_by_the_client(tmp_path: Path) -> None:
    """The server itself starts with none; it may have been started before."""
    certificate, key = OURS.issue(NAMES, EXPIRED)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    async with AvatarClient(f"127.0.0.1:{port}", stranger()) as client:
        with pytest.raises(AvatarError, match="has expired") as caught:
            await client.server_info()
    await server.stop(None)
    assert caught.value.reason == "TLS_FAILED"


@in_event_loop
async def test_both_sides_prove_who_they_are(tmp_path: Path) -> None:
    gateway = Files(tmp_path / "gateway", [GATEWAY])
    async with serving(own(tmp_path, [PIPELINE]).server(mutual=True, allowed=[GATEWAY])) as server:
        tls = ClientTls(gateway.client(), NoObserver())
        assert await check(tls.channel(server.target, ())) == SERVING


@in_event_loop
async def test_a_client_of_another_name_is_refused(tmp_path: Path) -> None:
    other = Files(tmp_path / "other", ["somebody.else"])
    async with serving(own(tmp_path).server(mutual=True, allowed=[GATEWAY])) as server:
        tls = ClientTls(other.client(), NoObserver())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(tls.channel(server.target, ()))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    metadata = dict(caught.value.trailing_metadata() or ())
    assert b"PEER_NAME_FORBIDDEN" in bytes(metadata["grpc-status-details-bin"])


@in_event_loop
async def test_a_stream_of_another_name_is_refused(tmp_path: Path) -> None:
    other = Files(tmp_path / "other", ["somebody.else"])
    tls = ClientTls(other.client(), NoObserver())
    async with (
        serving(own(tmp_path).server(mutual=True, allowed=[GATEWAY])) as server,
        tls.channel(server.target, ()) as channel,
    ):
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError, match="none of the names"):
            await watch.read()


@in_event_loop
async def test_a_link_checks_the_name_of_the_next_service_and_says_so(tmp_path: Path) -> None:
    gateway = Files(tmp_path / "gateway", [GATEWAY])
    async with serving(own(tmp_path, ["another.service"]).server(mutual=True)) as server:
        tls = ClientTls(gateway.client(PIPELINE), NoObserver())
        hello = StreamBlocksRequest(hello=StreamBlocksRequest.Hello())
        connection: Connection[StreamBlocksRequest, StreamBlocksResponse] = Connection(
            server.target, "the next service", hello, HopTiming(connect_s=5), tls
        )
        connection.start(PipelineServiceStub(connection.channel).StreamBlocks())
        with pytest.raises(ServiceError) as caught:
            await connection.handshake(hello)
        await connection.close()
    assert caught.value.reason == "STAGE_LOST"
    assert "Hostname Verification" in (caught.value.detail or "")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@in_event_loop
async def test_versions_before_1_2_are_refused(tmp_path: Path) -> None:
    async with serving(own(tmp_path).server()) as server:
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            assert (await asyncio.to_thread(handshake, server.port, version))[0] == name
        with pytest.raises(OSError):
            await asyncio.to_thread(handshake, server.port, ssl.TLSVersion.TLSv1_1)


@in_event_loop
async def test_a_stream_goes_on_while_the_certificate_changes(tmp_path: Path) -> None:
    files, seen = own(tmp_path), Certificates()
    async with serving(files.server(), seen) as server:
        _, before = await asyncio.to_thread(handshake, server.port)
        async with grpc.aio.secure_channel(server.target, stranger()) as channel:
            watch = health_of(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
            assert (await watch.read()).status == SERVING
            after = files.replace(NAMES)
            assert (await asyncio.to_thread(handshake, server.port))[1] == after != before
            await server.health.set("", NOT_SERVING)
            assert (await watch.read()).status == NOT_SERVING
    assert [side for side, _ in seen.loaded] == ["server", "server"]


BAD_FILES = {
    "no certificate": (b"nonsense", OURS.issue(NAMES, DAY)[1]),
    "no key": (OURS.issue(NAMES, DAY)[0], b"nonsense"),
    "another's key": (OURS.issue(NAMES, DAY)[0], OURS.issue(NAMES, DAY)[1]),
    "expired": OURS.issue(NAMES, EXPIRED),
}


@pytest.mark.parametrize("fault", BAD_FILES)
@in_event_loop
async def test_new_files_that_cannot_be_used_change_nothing(fault: str, tmp_path: Path) -> None:
    files, seen = own(tmp_path), Certificates()
    async with serving(files.server(), seen) as server:
        _, before = await asyncio.to_thread(handshake, server.port)
        files.write(*BAD_FILES[fault])
        for _ in range(3):
            assert (await asyncio.to_thread(handshake, server.port))[1] == before
        assert seen.rejected == ["server"]
        assert (await asyncio.to_thread(handshake, server.port))[1] == before
        after = files.replace(NAMES)
        assert (await asyncio.to_thread(handshake, server.port))[1] == after


@in_event_loop
async def test_a_client_uses_new_files_at_its_next_connection(tmp_path: Path) -> None:
    gateway = Files(tmp_path / "gateway", ["somebody.else"])
    async with serving(own(tmp_path).server(mutual=True, allowed=[GATEWAY])) as server:
        tls = ClientTls(gateway.client(), NoObserver())
        with pytest.raises(grpc.aio.AioRpcError, match="none of the names"):
            await check(tls.channel(server.target, ()))
        gateway.replace([GATEWAY])
        assert await check(tls.channel(server.target, ())) == SERVING
        (gateway.folder / "tls.crt").unlink()
        assert await check(tls.channel(server.target, ())) == SERVING


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"certificate": "a"}, "certificate and key belong together"),
        ({"client_ca": "a"}, "client_ca needs certificate and key"),
        ({"certificate": "a", "key": "b", "allowed_names": "x"}, "allowed_names needs client_ca"),
    ],
)
def test_settings_of_a_server_belong_together(settings: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ServerTlsSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"ca": "a", "key": "a"}, "certificate and key belong together"),
        ({"server_name": "a"}, "need ca"),
    ],
)
def test_settings_of_a_client_belong_together(settings: dict[str, str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ClientTlsSettings.model_validate(settings)
