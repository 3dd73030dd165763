"""A whole run of a gateway process with planted secrets: none of them leaves by its logs, audit, metrics, traces or
store, but for the prompt in the session's own record.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from redis.asyncio import Redis

from live_avatar.proxies import DIRECT
from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.access.fake_issuer import FakeIssuer, SigningKey, fake_issuer
from tests.services.gateway.callers import BOOTSTRAP, Caller
from tests.services.gateway.clients import RATE_HZ, Talk, audio_format, tone
from tests.services.gateway.fake_pipeline import fake_pipeline
from tests.services.processes import ServiceProcess, started

if TYPE_CHECKING:
    from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceAsyncStub

PROMPT, NEXT_PROMPT = "planted prompt of the session", "planted prompt that replaces it"
IMAGE_TEXT = "planted text inside the portrait"
TOKEN_KEY = "planted key of session tokens, 32 or more"


class Collector:
    """Keeps all that is exported, as bytes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def take(self, request: Any) -> None:
        self.received.append(request.SerializeToString())


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """An OTLP collector and its address."""
    collector = Collector()

    class Traces(TraceServiceServicer):
        def Export(self, request: Any, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
            collector.take(request)
            return ExportTraceServiceResponse()

    class Metrics(MetricsServiceServicer):
        def Export(self, request: Any, context: grpc.ServicerContext) -> ExportMetricsServiceResponse:
            collector.take(request)
            return ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
    add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def marked_portrait() -> bytes:
    info, data = PngInfo(), io.BytesIO()
    info.add_text("Comment", IMAGE_TEXT)
    Image.new("RGB", (64, 64), (200, 150, 120)).save(data, "PNG", pnginfo=info)
    return data.getvalue()


async def everything_in(redis: Redis) -> dict[str, bytes]:
    """All keys of a Redis with all that they hold, in one piece each."""
    found = {}
    async for name in redis.scan_iter():
        readers: Mapping[Any, Any] = {
            b"string": redis.get,
            b"hash": redis.hgetall,
            b"set": redis.smembers,
            b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
            b"list": lambda key: redis.lrange(key, 0, -1),
            b"stream": redis.xrange,
        }
        found[name.decode()] = repr(await readers[await redis.type(name)](name)).encode()
    return found


@dataclass
class Run:
    """What a run left behind."""

    secrets: dict[str, str]
    session_id: str = ""
    store: dict[str, bytes] | None = None
    page: bytes = b""


@asynccontextmanager
async def channel_to(target: str) -> AsyncIterator[tuple["AvatarServiceAsyncStub", Caller]]:
    async with grpc.aio.insecure_channel(target, options=DIRECT) as channel:
        yield AvatarServiceStub(channel), Caller(channel)


async def converse(target: str, issuer: FakeIssuer, run: Run) -> None:
    """A session from its creation to its end, with mistakes around it."""
    token, stranger = issuer.token(), issuer.token(SigningKey("stranger"))
    unknown = ApiKey.generate()
    async with channel_to(target) as (stub, caller):
        request = api.CreateSessionRequest(
            reference_image=marked_portrait(), config=api.SessionConfig(audio=audio_format(), prompt=PROMPT)
        )
        made = await until_created(caller.using(token), request)
        run.session_id = made.session.session_id
        run.secrets |= {"session token": made.session_token, "OIDC token": token, "a stranger's token": stranger}
        run.secrets |= {"unknown key": unknown.secret}
        await spoil(caller, made.session_token, stranger, unknown)
        async with Talk(stub) as talk:
            await talk.open(made.session_token)
            change = api.UpdateSessionRequest(session_id=run.session_id, config=api.SessionConfig(prompt=NEXT_PROMPT))
            change.update_mask.paths.append("prompt")
            await caller.using(token).call(change)
            await talk.speak(tone(RATE_HZ))
            await talk.finish()
            await talk.rest()


async def spoil(caller: Caller, session_token: str, stranger: str, unknown: ApiKey) -> None:
    """Calls that are rejected, with secrets where they do not belong."""
    good = caller.using(BOOTSTRAP.text)
    attempts = [
        caller.using(stranger).call(api.ListSessionsRequest()),
        caller.using(unknown.text).call(api.ListSessionsRequest()),
        good.call(api.GetSessionRequest(session_id=session_token)),
        good.call(api.CloseSessionRequest(session_id=BOOTSTRAP.text)),
        good.call(api.ListSessionsRequest(page_token=session_token)),
        good.call(api.CreateSessionRequest(reference_image=marked_portrait()[:80])),
        good.call(api.CreateSessionRequest(config=api.SessionConfig(prompt=PROMPT * 1_000))),
        caller.open(session_token[:-1]),
        caller.open(BOOTSTRAP.text),
    ]
    for attempt in attempts:
        with suppress(grpc.aio.AioRpcError):
            await attempt


async def until_created(caller: Caller, request: api.CreateSessionRequest) -> Any:
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        try:
            return await caller.call(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.1)


async def whole_run(redis_url: str, audit: Path, endpoint: str, run: Run) -> list[dict[str, Any]]:
    """The lines of the gateway's log."""
    async with AsyncExitStack() as stack:
        issuer = stack.enter_context(fake_issuer(SigningKey("ec")))
        pipeline = await stack.enter_async_context(fake_pipeline(2))
        flags = {
            "pipelines": pipeline.address, "store.url": redis_url, "auth.mode": "keys,oidc", "token-key": TOKEN_KEY,
            "auth.bootstrap-key": BOOTSTRAP.text, "auth.oidc.issuer": issuer.url, "auth.oidc.audience": "live-avatar",
            "auth.oidc.tenant-claim": "tenant", "audit.path": str(audit), "audit.stream": "audit",
            "telemetry.otlp-endpoint": endpoint, "telemetry.prometheus-port": "0", "telemetry.log-level": "debug",
        }  # fmt: skip
        process: ServiceProcess = stack.enter_context(started("gateway", *(f"--{k}={v}" for k, v in flags.items())))
        assert process.process.stdout is not None
        listening = json.loads(process.process.stdout.readline())
        await converse(f"127.0.0.1:{listening['port']}", issuer, run)
        url = f"http://127.0.0.1:{listening['prometheus_port']}/metrics"
        run.page = await asyncio.to_thread(lambda: urlopen(url, timeout=30).read())
        await asyncio.sleep(0.5)  # the audit's stream is written a little later
        redis = Redis.from_url(redis_url)
        run.store = {f"store: {key}": content for key, content in (await everything_in(redis)).items()}
        await redis.aclose()
        code, log = await asyncio.to_thread(process.end)
        assert code == 0
        return log


def test_no_secret_leaves_a_gateway(redis_server: str, tmp_path: Path) -> None:
    planted = {"bootstrap key": BOOTSTRAP.secret, "token key": TOKEN_KEY, "portrait": IMAGE_TEXT}
    run, audit = Run(planted | {"prompt": PROMPT, "next prompt": NEXT_PROMPT}), tmp_path / "audit.jsonl"
    with collecting() as (collector, endpoint):
        log = asyncio.run(whole_run(redis_server, audit, endpoint, run))
    places = {"log": json.dumps(log).encode(), "audit": audit.read_bytes(), "metrics": run.page}
    places["traces"] = b"".join(collector.received)
    assert run.store is not None
    assert all(places.values()) and run.store
    places |= run.store
    leaks = {
        (secret, place)
        for secret, value in run.secrets.items()
        for place, content in places.items()
        if value.encode() in content or value.encode() in place.encode()
    }
    own_record = {place for place in run.store if run.session_id in place}
    prompts = {place for secret, place in leaks if "prompt" in secret}
    assert prompts and prompts <= own_record, "a tenant sees its own prompts"
    assert not {(secret, place) for secret, place in leaks if "prompt" not in secret}
    check_audit([json.loads(line) for line in audit.read_text().splitlines()], run)


def check_audit(records: list[dict[str, Any]], run: Run) -> None:
    """The audit knows who did what, and who was rejected why."""
    of_session = [record for record in records if record.get("session_id") == run.session_id]
    actions = [record["action"] for record in of_session]
    assert actions[:2] == ["CreateSession", "StreamAvatar.opened"]
    assert {"UpdateSession", "StreamAvatar", "SessionEnded"} <= set(actions)
    assert {(record["tenant"], record["key_id"]) for record in of_session} == {("team-a", "robot")}
    rejected = {(record["action"], record["reason"]) for record in records if record["code"] != "OK"}
    assert ("ListSessions", "CREDENTIAL_INVALID") in rejected
    assert ("GetSession", "SESSION_NOT_FOUND") in rejected or ("GetSession", "NAME_TOO_LONG") in rejected
    assert "(malformed)" in {record.get("session_id") for record in records}
