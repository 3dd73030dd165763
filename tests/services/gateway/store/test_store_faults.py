"""What sessions of a gateway go through while their store is slow, away, or refuses it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest
from live_avatar.services.gateway.store.records import PROBE_KEY
from live_avatar.services.gateway.store.redis_access import as_text, connect
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import BLOCK_SAMPLES, Gateway, Talk, create_request, failure, gateway, tone, units
from tests.services.gateway.fake_pipeline import PassingWork, fake_pipeline
from tests.services.gateway.redis_proxy import redis_proxy
from tests.services.gateway.store.test_store import open_store, reap

pytestmark = pytest.mark.alone

CLOSED, FAILED = api.Session.STATE_CLOSED, api.Session.STATE_FAILED
LEASE_S = 1.0


def kept_at(url: str, lease_s: float = LEASE_S, **more: Any) -> dict[str, Any]:
    return {"store": {"url": url, "lease_seconds": lease_s, "grace_seconds": 3 * lease_s}, **more}


class SlowWork(PassingWork):
    """Takes its time to reserve a session."""

    seconds = 0.0

    def open(self, request: StreamBlocksRequest.Open) -> int:
        time.sleep(self.seconds)
        return super().open(request)


async def read(running: Gateway, session_id: str) -> api.Session:
    """A session as GetSession tells it."""
    return (await running.stub.GetSession(api.GetSessionRequest(session_id=session_id), timeout=10)).session


async def over(running: Gateway, session_id: str) -> tuple[int, str]:
    """State and reason of a session, once it is over."""
    async with asyncio.timeout(20):
        while (session := await read(running, session_id)).state not in (CLOSED, FAILED):  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.02)
    return session.state, session.end_reason


@asynccontextmanager
async def direct(url: str) -> AsyncIterator[Redis]:
    """A client of the server itself, which is empty at first."""
    client = connect(url)
    await client.flushall()
    try:
        yield client
    finally:
        await client.aclose(close_connection_pool=True)


COUNTS = ("live_avatar:calls:", "live_avatar:media:", "live_avatar:usage")
"""Beginnings of keys of what was used, which outlives sessions."""


async def left(client: Redis) -> set[str]:
    """Keys of sessions."""
    return {name for name in map(as_text, await client.keys("*")) if not name.startswith(COUNTS)} - {PROBE_KEY}


def test_a_creation_may_last_longer_than_a_lease(redis_server: str) -> None:
    async def scenario() -> None:
        encoder = SlowWork(4)
        async with fake_pipeline(encoder=encoder) as pipeline, gateway(pipeline, settings=kept_at(redis_server)) as one:
            encoder.seconds = 3 * LEASE_S
            request = create_request()
            request.request_id = "slow"
            made, again = await asyncio.gather(*(one.stub.CreateSession(request, timeout=20) for _ in range(2)))
            assert again.session.session_id == made.session.session_id
            async with Talk(one.stub) as talk:
                await talk.open(made.session_token)
                await talk.speak(tone(BLOCK_SAMPLES))
                await talk.finish()
                assert units(await talk.rest())

    asyncio.run(scenario())


def test_a_store_that_answers_slowly_makes_creation_slow_and_nothing_worse(redis_server: str) -> None:
    async def scenario() -> None:
        async with (
            redis_proxy(redis_server) as proxy,
            fake_pipeline() as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url)) as one,
        ):
            kept = await one.create()
            proxy.delay_s = lambda: 0.07
            made = await one.stub.CreateSession(create_request(), timeout=30)
            assert made.session.state == api.Session.STATE_ACTIVE
            await asyncio.sleep(2 * LEASE_S)
            for session in (kept, made):
                assert (await read(one, session.session.session_id)).state == api.Session.STATE_ACTIVE

    asyncio.run(scenario())


def test_a_creation_that_is_cancelled_anywhere_leaves_nothing(redis_server: str) -> None:
    async def scenario() -> None:
        encoder = SlowWork(4)
        async with (
            direct(redis_server) as client,
            redis_proxy(redis_server) as proxy,
            fake_pipeline(encoder=encoder) as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url, 30.0)) as one,
        ):
            proxy.delay_s, encoder.seconds = lambda: 0.02, 0.05
            for turn in range(28):
                request = create_request()
                request.request_id = "again"
                call = one.stub.CreateSession(request, timeout=20)
                await asyncio.sleep(0.02 * turn)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                    break
                if not await nothing_left(client, one):
                    break
            assert turn > 10, "the creation ended before it was cancelled"

    asyncio.run(scenario())


async def nothing_left(client: Redis, running: Gateway) -> bool:
    """Returns True once nothing is left, False where the session was made after all before its caller left."""
    async with asyncio.timeout(30):
        while running.pipeline.sessions_held or await left(client):
            page = await running.stub.ListSessions(api.ListSessionsRequest(), timeout=20)
            if any(one.state == api.Session.STATE_ACTIVE for one in page.sessions):
                return False
            await asyncio.sleep(0.02)
    return True


def test_a_session_goes_on_when_the_store_was_away_for_longer_than_its_lease(redis_server: str) -> None:
    async def scenario() -> None:
        async with (
            redis_proxy(redis_server) as proxy,
            fake_pipeline() as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url)) as one,
            Talk(one.stub) as talk,
        ):
            made = await one.create()
            await talk.open(made.session_token)
            proxy.away = True
            proxy.cut()
            await asyncio.sleep(1.8 * LEASE_S)
            proxy.away = False
            await asyncio.sleep(2 * LEASE_S)
            assert (await read(one, made.session.session_id)).state == api.Session.STATE_ACTIVE
            await talk.speak(tone(BLOCK_SAMPLES))
            await talk.finish()
            assert units(await talk.rest())

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["away", "taken", "reaped"])
def test_the_reason_of_a_lost_lease_is_true(redis_server: str, what: str) -> None:
    wanted = {"away": "STORE_LOST", "taken": "LEASE_LOST", "reaped": "LEASE_LOST"}

    async def scenario() -> None:
        async with (
            direct(redis_server) as client,
            redis_proxy(redis_server) as proxy,
            fake_pipeline() as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url)) as one,
            Talk(one.stub) as talk,
        ):
            other = open_store(client, "other", 60_000)
            made = await one.create()
            await talk.open(made.session_token)
            proxy.away = True
            proxy.cut()
            if what != "away":
                await asyncio.sleep(1.3 * LEASE_S)
                name = made.session.session_id
                acts: dict[str, Callable[[], Awaitable[object]]] = {
                    "taken": lambda: other.take_over(name), "reaped": lambda: reap(other)
                }  # fmt: skip
                await acts[what]()
                proxy.away = False
            error = await talk.failure()
            assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, wanted[what])
            proxy.away = False
            if what == "taken":
                assert (await read(one, name)).epoch == 2, "the session of another gateway goes on"
                assert await other.holder(name) == "other"

    asyncio.run(scenario())


def test_sessions_are_stored_anew_where_the_store_comes_back_empty(redis_server: str) -> None:
    async def scenario() -> None:
        quotas = {"max_concurrent_sessions": 2}
        async with (
            direct(redis_server) as client,
            redis_proxy(redis_server) as proxy,
            fake_pipeline(capacity=2) as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url) | {"quotas": quotas}) as one,
            Talk(one.stub) as talk,
        ):
            request = create_request()
            request.request_id = "once"
            made, unopened = await one.stub.CreateSession(request), await one.create()
            await talk.open(made.session_token)
            await talk.speak(tone(BLOCK_SAMPLES))
            proxy.away = True
            proxy.cut()
            await client.flushall()
            await asyncio.sleep(1.3 * LEASE_S)
            proxy.away = False
            async with asyncio.timeout(20):
                while len((await one.stub.ListSessions(api.ListSessionsRequest())).sessions) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert (await read(one, made.session.session_id)).state == api.Session.STATE_ACTIVE
            assert (await one.stub.CreateSession(request)).session.session_id == made.session.session_id
            assert (await failure(one.create)).reason == "TENANT_QUOTA"
            await talk.finish()
            assert units(await talk.rest())
            await one.stub.CloseSession(api.CloseSessionRequest(session_id=unopened.session.session_id))
            assert (await read(one, made.session.session_id)).state == api.Session.STATE_CLOSED
            await one.freed()

    asyncio.run(scenario())


def test_a_frozen_store_ends_no_session(redis_server: str) -> None:
    """It answers nothing for longer than a lease, and then everything that it was asked; two gateways share it."""

    async def scenario() -> None:
        async with (
            redis_proxy(redis_server) as proxy,
            fake_pipeline(capacity=8) as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url)) as one,
            gateway(pipeline, settings=kept_at(proxy.url)) as two,
        ):
            made = [await each.create() for each in (one, two) for _ in range(3)]
            thaws = asyncio.get_running_loop().time() + 2.5 * LEASE_S
            proxy.delay_s = lambda: max(0.0, thaws - asyncio.get_running_loop().time())
            await asyncio.sleep(6 * LEASE_S)
            for session in made:
                assert (await read(one, session.session.session_id)).state == api.Session.STATE_ACTIVE

    asyncio.run(scenario())


def test_what_has_just_ended_is_over_and_never_another_gateways(redis_server: str) -> None:
    async def scenario() -> None:
        async with (
            redis_proxy(redis_server) as proxy,
            fake_pipeline() as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url, 30.0)) as one,
        ):
            made = await one.create()
            async with Talk(one.stub) as talk:
                await talk.open(made.session_token)
                proxy.delay_s = lambda: 0.1
                await talk.finish()
                await talk.rest()
            interrupt = api.InterruptSessionRequest(session_id=made.session.session_id)
            for _ in range(3):
                error = await failure(lambda: one.stub.InterruptSession(interrupt, timeout=10))
                assert error.reason == "SESSION_EXPIRED"
            async with Talk(one.stub) as talk:
                await talk.say(open=api.StreamAvatarRequest.Open(session_token=made.session_token))
                assert (await talk.failure()).reason == "SESSION_EXPIRED"

    asyncio.run(scenario())


def test_an_end_that_the_store_misses_is_written_when_it_is_back(redis_server: str) -> None:
    async def scenario() -> None:
        async with (
            redis_proxy(redis_server) as proxy,
            fake_pipeline() as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url)) as one,
        ):
            made = await one.create()
            async with Talk(one.stub) as talk:
                await talk.open(made.session_token)
                proxy.away = True
                proxy.cut()
                await talk.finish()
                await talk.rest()
            await asyncio.sleep(1.5 * LEASE_S)
            proxy.away = False
            assert await over(one, made.session.session_id) == (CLOSED, "")

    asyncio.run(scenario())


def test_a_session_that_failed_says_why() -> None:
    async def scenario() -> None:
        short = {"limits": {"idle_timeout_seconds": 3}}
        async with fake_pipeline(8) as pipeline, gateway(pipeline, settings=short) as one:
            gone = await one.create()
            async with Talk(one.stub) as talk:
                await talk.open(gone.session_token)
            wrong = await one.create()
            async with Talk(one.stub) as talk:
                await talk.open(wrong.session_token)
                await talk.say(9, finish=api.StreamAvatarRequest.Finish())
                await talk.failure()
            closed = await one.create()
            await one.stub.CloseSession(api.CloseSessionRequest(session_id=closed.session.session_id), timeout=20)
            idle, limited = await one.create(), create_request()
            limited.max_duration.FromSeconds(1)
            old = await one.stub.CreateSession(limited, timeout=30)
            wanted = {
                "IDLE": idle, "MAX_DURATION": old, "CLIENT_GONE": gone, "MESSAGE_OUT_OF_ORDER": wrong, "": closed
            }  # fmt: skip
            for reason, made in wanted.items():
                assert await over(one, made.session.session_id) == (FAILED if reason else CLOSED, reason)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["drained", "ended"])
def test_sessions_of_a_gateway_that_ends_say_so(redis_server: str, how: str) -> None:
    async def scenario() -> None:
        async with fake_pipeline() as pipeline, gateway(pipeline, settings=kept_at(redis_server, 30.0)) as other:
            async with gateway(pipeline, settings=kept_at(redis_server, 30.0)) as one:
                made = await one.create()
                if how == "drained":
                    await one.service.drain()
            assert await over(other, made.session.session_id) == (FAILED, "DRAINING")

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["password", "rights", "away"])
def test_a_store_that_cannot_be_used_makes_the_gateway_not_ready(
    redis_server: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        rights = {"password": ["resetpass", ">else"], "rights": ["-@all"], "away": []}
        good = ["on", "+@all", "~*", "&*", "resetpass", ">right"]
        async with (
            access(redis_server, good) as set_access,
            redis_proxy(redis_server) as proxy,
            fake_pipeline() as pipeline,
            gateway(pipeline, settings=kept_at(proxy.url.replace("//", "//gateway:right@"))) as one,
        ):
            await until_ready(one, True)
            proxy.away = how == "away"
            await set_access(rights[how])
            proxy.cut()
            await until_ready(one, False)
            await asyncio.sleep(2.2)
            error = await failure(one.create)
            reason = "STORE_LOST" if how == "away" else "STORE_REFUSED"
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
            proxy.away = False
            await set_access(good)
            proxy.cut()
            await until_ready(one, True)
            await one.create()
        assert capsys.readouterr().out.count("the session store cannot be used") == 1

    asyncio.run(scenario())


@asynccontextmanager
async def access(url: str, rules: list[str]) -> AsyncIterator[Callable[[list[str]], Awaitable[object]]]:
    """Makes the user ``gateway``; gives what changes its password and rights."""
    async with direct(url) as client:

        async def change(rules: list[str]) -> object:
            return await client.execute_command("ACL", "SETUSER", "gateway", *rules)  # type: ignore[no-untyped-call]

        await change(rules)
        yield change
        await client.execute_command("ACL", "DELUSER", "gateway")  # type: ignore[no-untyped-call]


async def until_ready(running: Gateway, ready: bool) -> None:
    async with asyncio.timeout(20):
        while running.service.ready() is not ready:  # noqa: ASYNC110 - the health service asks so too
            await asyncio.sleep(0.05)
