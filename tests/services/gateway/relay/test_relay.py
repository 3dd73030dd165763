"""Two gateways with one store: whichever is asked, the call is answered."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from live_avatar.proxies import DIRECT
from live_avatar.serving.errors import from_rpc_error
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import Gateway, Request, Response, Talk, failure, gateway, tone, units, video_format
from tests.services.gateway.fake_pipeline import fake_pipeline
from tests.services.gateway.sessions.test_lifecycle import serving_tasks

BLOCK = 16_000 * 12 // 25
Code = grpc.StatusCode


@asynccontextmanager
async def pair(redis_server: str, **relay: Any) -> AsyncIterator[tuple[Gateway, Gateway]]:
    settings = {"store": {"url": redis_server}, "token_key": "shared", "relay": relay}
    async with AsyncExitStack() as stack:
        pipeline = await stack.enter_async_context(fake_pipeline(capacity=200))
        one = await stack.enter_async_context(gateway(pipeline, settings=settings))
        yield one, await stack.enter_async_context(gateway(pipeline, settings=settings))


def run(redis_server: str, scenario: Callable[[Gateway, Gateway], Any], **relay: Any) -> None:
    async def whole() -> None:
        async with pair(redis_server, **relay) as (one, two), asyncio.timeout(90):
            await scenario(one, two)

    asyncio.run(whole())


async def spoken(by: Gateway, created: api.CreateSessionResponse) -> list[bytes]:
    """All units of a session whose stream ``by`` is asked for."""
    async with Talk(by.stub) as talk:
        await talk.open(created.session_token)
        await talk.speak(tone(4 * BLOCK))
        await talk.finish()
        return [unit.data for unit in units(await talk.rest())]


def test_a_stream_through_another_gateway_is_the_same(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        config: dict[str, Any] = {"video": video_format(VideoFormat.ENCODING_FMP4)}
        direct = await spoken(one, await one.create(**config))
        created = await one.create(**config)
        assert not created.stream_endpoint
        assert await spoken(two, created) == direct
        await one.freed()

    run(redis_server, scenario)


def test_every_call_of_a_session_is_answered_by_the_other_gateway(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create(delivery=api.DELIVERY_LIVE)
        session_id = created.session.session_id
        async with Talk(two.stub) as talk:
            opened = await talk.open(created.session_token)
            assert opened.opened.session.session_id == session_id
            interrupted = await two.stub.InterruptSession(api.InterruptSessionRequest(session_id=session_id))
            assert interrupted.first_clean_block_index < 100
            update = api.UpdateSessionRequest(session_id=session_id, config=api.SessionConfig(prompt="another"))
            update.update_mask.paths.append("prompt")
            assert (await two.stub.UpdateSession(update)).session.config.prompt == "another"
            found = await two.stub.GetSession(api.GetSessionRequest(session_id=session_id))
            assert found.session.state == api.Session.STATE_ACTIVE
            await two.stub.CloseSession(api.CloseSessionRequest(session_id=session_id))
            error = await talk.failure()
            assert (error.code, error.reason) == (Code.ABORTED, "SESSION_CLOSED")
        await one.freed()

    run(redis_server, scenario)


def test_refusals_of_the_holder_come_as_they_are(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create(delivery=api.DELIVERY_LIVE)
        async with Talk(two.stub) as talk:
            await talk.open(created.session_token)
            async with Talk(two.stub) as second:
                await second.say(open=Request.Open(session_token=created.session_token))
                assert (await second.failure()).reason == "DUPLICATE_OPEN"
            await talk.say(sequence=99, finish=Request.Finish())
            error = await talk.failure()
            assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "MESSAGE_OUT_OF_ORDER")
        offline = await one.create()
        request = api.InterruptSessionRequest(session_id=offline.session.session_id)
        assert (await failure(lambda: two.stub.InterruptSession(request))).reason == "NOT_LIVE"

    run(redis_server, scenario)


def test_a_stream_is_resumed_through_the_other_gateway(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create(delivery=api.DELIVERY_LIVE, video=video_format(VideoFormat.ENCODING_H264_ANNEXB))
        opening = Request.Open(session_token=created.session_token, initial_video_credits=500, resumable=True)
        async with Talk(one.stub) as talk:
            await talk.say(open=opening)
            opening.resume_handle = (await talk.receive()).opened.resume_handle
            talk.cancel()
        async with Talk(two.stub) as talk:
            await talk.write(Request(open=opening))
            resumed = (await talk.receive()).opened
            assert (resumed.session.session_id, resumed.next_block_index) == (created.session.session_id, 0)

    run(redis_server, scenario)


def test_more_than_a_hundred_sessions_round_robin(redis_server: str) -> None:
    """Every call of a session through another gateway than the one before."""

    async def whole_session(first: Gateway, second: Gateway) -> None:
        created = await first.create(delivery=api.DELIVERY_LIVE)
        async with Talk(second.stub) as talk:
            await talk.open(created.session_token)
            await first.stub.GetSession(api.GetSessionRequest(session_id=created.session.session_id))
            await second.stub.CloseSession(api.CloseSessionRequest(session_id=created.session.session_id))
            assert (await talk.failure()).reason == "SESSION_CLOSED"

    async def scenario(one: Gateway, two: Gateway) -> None:
        for _ in range(30):
            pairs = [(one, two), (two, one)] * 2
            await asyncio.gather(*(whole_session(*each) for each in pairs))
        await one.freed()
        await two.freed()

    run(redis_server, scenario)


def test_the_end_of_a_clients_messages_is_passed_on(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create()
        async with Talk(two.stub) as talk:
            await talk.open(created.session_token)
            await talk.speak(tone(2 * BLOCK))
            await talk.half_close()
            assert units(await talk.rest())
        await one.freed()

    run(redis_server, scenario)


def test_a_client_that_leaves_takes_its_session_along(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create(delivery=api.DELIVERY_LIVE)
        talk = Talk(two.stub)
        await talk.open(created.session_token)
        talk.cancel()
        await one.freed()

    run(redis_server, scenario)


def test_messages_that_cannot_be_read_are_refused_as_ever(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create(delivery=api.DELIVERY_LIVE)
        async with grpc.aio.insecure_channel(two.target, options=DIRECT) as channel:
            call: Any = channel.stream_stream("/live_avatar.v1.AvatarService/StreamAvatar")()
            await call.write(Request(open=Request.Open(session_token=created.session_token)).SerializeToString())
            assert Response.FromString(await call.read()).HasField("opened")
            await call.write(b"\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                while await call.read() is not grpc.aio.EOF:
                    pass
            assert from_rpc_error(refusal.value).reason == "MESSAGE_MALFORMED"

    run(redis_server, scenario)


def test_calls_that_are_passed_on_are_bounded(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        first, second = [await one.create(delivery=api.DELIVERY_LIVE) for _ in range(2)]
        async with Talk(two.stub) as talk:
            await talk.open(first.session_token)
            async with Talk(two.stub) as other:
                await other.say(open=Request.Open(session_token=second.session_token))
                error = await other.failure()
                assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")

    run(redis_server, scenario, max_calls=1)


def test_a_gateway_that_drains_waits_for_what_it_passes_on(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create(delivery=api.DELIVERY_LIVE)
        async with Talk(two.stub) as talk:
            await talk.open(created.session_token)
            drain = asyncio.ensure_future(two.service.drain())
            await asyncio.sleep(0.1)
            assert not drain.done()
            await talk.finish()
            await talk.rest()
        async with asyncio.timeout(10):
            await drain

    run(redis_server, scenario)


def test_a_stream_that_can_be_resumed_leaves_a_gateway_that_drains_at_once(redis_server: str) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create(delivery=api.DELIVERY_LIVE, video=video_format(VideoFormat.ENCODING_H264_ANNEXB))
        opening = Request.Open(session_token=created.session_token, initial_video_credits=500, resumable=True)
        async with Talk(two.stub) as talk:
            await talk.say(open=opening)
            opening.resume_handle = (await talk.receive()).opened.resume_handle
            async with asyncio.timeout(20):
                await two.service.drain()
            error = await talk.failure()
            assert (error.code, error.reason) == (Code.UNAVAILABLE, "DRAINING")
        async with Talk(one.stub) as talk:
            await talk.write(Request(open=opening))
            assert (await talk.receive()).HasField("opened")

    run(redis_server, scenario)


def test_nothing_is_left_of_calls_that_were_passed_on(redis_server: str) -> None:
    async def some(one: Gateway, two: Gateway) -> int:
        for _ in range(5):
            created = await one.create(delivery=api.DELIVERY_LIVE)
            async with Talk(two.stub) as talk:
                await talk.open(created.session_token)
            await one.freed()
        await asyncio.sleep(0.1)
        return serving_tasks()

    async def scenario(one: Gateway, two: Gateway) -> None:
        before = await some(one, two)
        for _ in range(3):
            after = await some(one, two)
        assert after <= before + 1

    run(redis_server, scenario)


def test_a_call_is_recorded_once(redis_server: str, capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(one: Gateway, two: Gateway) -> None:
        created = await one.create(delivery=api.DELIVERY_LIVE)
        async with Talk(two.stub) as talk:
            await talk.open(created.session_token)
            await two.stub.CloseSession(api.CloseSessionRequest(session_id=created.session.session_id))
            assert (await talk.failure()).reason == "SESSION_CLOSED"

    run(redis_server, scenario)
    actions = re.findall(r'"event": "audit".*"action": "([^"]*)"', capfd.readouterr().err)
    assert sorted(actions) == ["CloseSession", "CreateSession", "SessionEnded", "StreamAvatar", "StreamAvatar.opened"]
