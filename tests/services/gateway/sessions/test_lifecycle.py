"""How sessions begin and end, and what a gateway does when its pipeline is full, at fault, or gone."""

import asyncio
import time

import grpc
import pytest

from live_avatar.config import TINY
from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest
from live_avatar.services.gateway.limits import Limits
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.timing import HopTiming
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import (
    BLOCK_SAMPLES,
    Gateway,
    Talk,
    create_request,
    failure,
    gateway,
    movie,
    tone,
    units,
    whole_system,
)
from tests.services.gateway.fake_pipeline import fake_pipeline

pytestmark = pytest.mark.alone

DROPPED = TINY.stream.dropped_frames
SWITCH = TINY.stream.sink_switch_block
SETTLED_S = 30
"""Until what a closed call leaves to the event loop is done."""
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
STREAMING = api.LISTENING_STREAMING


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_everything_is_free_when_a_session_ends_early(how: str) -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            made = await running.create()
            talk = Talk(running.stub)
            await talk.open(made.session_token)
            await talk.speak(tone(BLOCK_SAMPLES * 4))
            assert running.pipeline.sessions_held == 3
            if how == "close":
                closed = await running.stub.CloseSession(
                    api.CloseSessionRequest(session_id=made.session.session_id), timeout=5
                )
                assert closed.session.state == api.Session.STATE_CLOSED
                error = await talk.failure()
                assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")
            else:
                talk.cancel()
            await running.freed()
            assert await movie(running, BLOCK_SAMPLES)

    asyncio.run(scenario())


def test_closing_is_idempotent_and_what_is_over_can_be_read() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            made = await running.create()
            name = made.session.session_id
            for _ in range(2):
                closed = await running.stub.CloseSession(api.CloseSessionRequest(session_id=name), timeout=20)
                assert closed.session.state == api.Session.STATE_CLOSED
            read = await running.stub.GetSession(api.GetSessionRequest(session_id=name), timeout=20)
            assert read.session.state == api.Session.STATE_CLOSED
            page = await running.stub.ListSessions(api.ListSessionsRequest(), timeout=20)
            assert [one.session_id for one in page.sessions] == [name]
            async with Talk(running.stub) as talk:
                await talk.say(open=api.StreamAvatarRequest.Open(session_token=made.session_token))
                error = await talk.failure()
            assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED")

    asyncio.run(scenario())


def test_idle_and_old_sessions_end_by_themselves() -> None:
    async def scenario() -> None:
        async with whole_system(settings={"limits": {"idle_timeout_seconds": 1}}) as running:
            await running.create()
            streamed = await running.create()
            async with Talk(running.stub) as talk:
                await talk.say(open=api.StreamAvatarRequest.Open(session_token=streamed.session_token))
                error = await talk.failure()
            assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED")
            await running.freed()
        async with whole_system() as running:
            request = create_request()
            request.max_duration.FromSeconds(1)
            await running.stub.CreateSession(request, timeout=20)
            await running.freed()

    asyncio.run(scenario())


def test_a_request_id_makes_one_session() -> None:
    async def scenario() -> None:
        async with whole_system(capacity=1) as running:
            request = create_request()
            request.request_id = "again"
            made = await asyncio.gather(*(running.stub.CreateSession(request, timeout=10) for _ in range(30)))
            assert len({(one.session.session_id, one.session_token) for one in made}) == 1
            assert running.pipeline.sessions_held == 3
            request.config.seed = 5
            error = await failure(lambda: running.stub.CreateSession(request, timeout=20))
            assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")

    asyncio.run(scenario())


def test_a_full_pipeline_refuses_at_once_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        async with whole_system(capacity=2) as running:
            kept = [await running.create() for _ in range(2)]
            seconds = []
            for _ in range(3):
                began = time.monotonic()
                error = await failure(running.create)
                seconds.append(time.monotonic() - began)
                assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")
                assert error.retry_after_s
            assert min(seconds) < 2
            await running.stub.CloseSession(api.CloseSessionRequest(session_id=kept[0].session.session_id), timeout=20)
            await running.create()

    asyncio.run(scenario())


def test_a_service_that_has_no_room_refuses_the_session_everywhere() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            running.pipeline.stage.capacity = 0
            request = create_request()
            request.request_id = "again"
            error = await failure(lambda: running.stub.CreateSession(request, timeout=20))
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "KV_MEMORY_EXHAUSTED")
            await running.freed()
            running.pipeline.stage.capacity = 1
            await running.stub.CreateSession(request, timeout=20)

    asyncio.run(scenario())


def test_a_portrait_that_the_decoder_refuses_ends_the_session() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            wrong = ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_UNREADABLE", "no face")
            running.pipeline.decoder.portrait_error = wrong
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.say(open=api.StreamAvatarRequest.Open(session_token=made.session_token))
                error = await talk.failure()
            assert (error.code, error.reason) == (wrong.code, wrong.reason)
            await running.freed()

    asyncio.run(scenario())


def test_one_sessions_failure_leaves_the_others() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            made = await running.create()

            def break_one(block: StreamBlocksRequest.Block) -> None:
                if block.index == 2 and block.key.session_id == made.session.session_id:
                    raise ValueError("a fault in the work")

            running.pipeline.stage.before_block = break_one
            other = asyncio.create_task(movie(running, BLOCK_SAMPLES * 8))
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                await talk.speak(tone(BLOCK_SAMPLES * 8))
                await talk.finish()
                error = await talk.failure()
            assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
            assert "fault" not in error.message
            assert sum(unit.frame_count for unit in units(await other)) == 8 * 12 - DROPPED
            await running.freed()

    asyncio.run(scenario())


def test_a_lost_pipeline_ends_its_sessions_and_is_used_again_when_it_is_back() -> None:
    async def scenario() -> None:
        quick = HopTiming(heartbeat_s=0.1, silence_s=0.5, backoff_max_s=0.2)
        async with fake_pipeline(timing=quick) as first:
            ports = tuple(int(address.rpartition(":")[2]) for address in (first.head, first.head, first.tail))
            keeper = gateway(first, settings={"limits": Limits(resume_seconds=0)})
            running = await keeper.__aenter__()
            made = await running.create()
            talk = Talk(running.stub)
            await talk.open(made.session_token)
        error = await talk.failure()
        assert (error.code, error.reason) == (UNAVAILABLE, "STAGE_LOST")
        assert error.retry_after_s
        error = await failure(running.create)
        assert (error.code, error.reason) == (UNAVAILABLE, "STAGE_LOST")
        async with fake_pipeline(timing=quick, ports=(ports[0], 0, ports[2])) as second:
            running.pipeline = second
            await running.wait_ready()
            assert len(units(await movie(running, BLOCK_SAMPLES * 2))) >= 2
        await keeper.__aexit__(None, None, None)

    asyncio.run(scenario())


def test_gateways_that_share_a_store_share_the_pipelines_places(redis_server: str) -> None:
    async def scenario() -> None:
        settings = {"store": {"url": redis_server, "lease_seconds": 0.6}, "token_key": "shared"}
        async with (
            fake_pipeline(capacity=2) as pipeline,
            gateway(pipeline, settings=settings) as one,
            gateway(pipeline, settings=settings) as two,
        ):
            first, _ = await one.create(), await two.create()
            error = await failure(two.create)
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")
            page = await two.stub.ListSessions(api.ListSessionsRequest(), timeout=20)
            assert len(page.sessions) == 2
            async with Talk(one.stub) as talk:
                await talk.open(first.session_token)
                await asyncio.sleep(1)
                await two.stub.CloseSession(api.CloseSessionRequest(session_id=first.session.session_id), timeout=20)
                error = await talk.failure()
            assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")
            assert units(await movie(two, BLOCK_SAMPLES * 2))

    asyncio.run(scenario())


def test_a_pipeline_that_lacks_a_step_is_not_used() -> None:
    async def scenario() -> None:
        async with fake_pipeline(steps=(0, 1, 3)) as pipeline, gateway(pipeline, wait=False) as running:
            async with asyncio.timeout(5):
                while "every denoising step" not in (info := await running.info()).pipelines[0]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert info.session_capacity == 0
            error = await failure(running.create)
            assert (error.code, error.reason) == (UNAVAILABLE, "STAGE_LOST")

    asyncio.run(scenario())


def test_a_block_that_never_comes_has_a_deadline() -> None:
    async def scenario() -> None:
        async with whole_system(settings={"limits": {"block_deadline_seconds": 1}}) as running:
            running.pipeline.stage.before_block = lambda block: time.sleep(6) if block.index == 1 else None
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                await talk.speak(tone(BLOCK_SAMPLES * 4))
                await talk.finish()
                began = time.monotonic()
                error = await talk.failure()
            assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "BLOCK_DEADLINE")
            assert time.monotonic() - began < 6
            await running.freed()

    asyncio.run(scenario())


def test_draining_refuses_new_sessions_and_waits_for_the_open_ones() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            made = await running.create()
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                drain = asyncio.ensure_future(running.service.drain())
                await asyncio.sleep(0.05)
                error = await failure(running.create)
                assert (error.code, error.reason) == (UNAVAILABLE, "DRAINING")
                assert error.retry_after_s
                assert not running.service.ready()
                assert not drain.done()
                await talk.speak(tone(BLOCK_SAMPLES))
                await talk.finish()
                assert units(await talk.rest())
            async with asyncio.timeout(SETTLED_S):
                await drain

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_thousand_sessions_leave_nothing_behind() -> None:
    async def scenario() -> None:
        # The one that is held through it all must not pass its idle time on a busy machine.
        async with whole_system(settings={"limits": {"idle_timeout_seconds": 3_600}}) as running:
            await running.create()
            await come_and_go(running, 20)
            tasks = serving_tasks()
            await come_and_go(running, 1_000)
            async with asyncio.timeout(SETTLED_S):
                while serving_tasks() > tasks:  # noqa: ASYNC110 - nothing tells of the end of gRPC's own tasks
                    await asyncio.sleep(0.05)
            assert running.pipeline.sessions_held == 3

    asyncio.run(scenario())


def serving_tasks() -> int:
    """Tasks of the services; what gRPC keeps for the callers, who live in this process too, is not counted."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    return sum(not name.startswith("_AioCall.") for name in names)


async def come_and_go(running: Gateway, sessions: int) -> None:
    """Sessions that are closed, and as many that are opened and left."""
    for index in range(sessions):
        made = await running.create()
        async with Talk(running.stub) as talk:
            if index % 2:
                await talk.open(made.session_token)
            else:
                await running.stub.CloseSession(api.CloseSessionRequest(session_id=made.session.session_id), timeout=20)
        while running.pipeline.sessions_held > 3:  # noqa: ASYNC110 - the pipeline knows nothing of who waits
            await asyncio.sleep(0.002)
