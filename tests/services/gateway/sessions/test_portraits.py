"""Portraits that take too long or too much: a typed refusal, nothing held, and nobody else notices."""

import asyncio
import sys
import time
from functools import partial

import grpc
import pytest

from live_avatar.portrait.limits import DEFAULT_LIMITS
from live_avatar.services.gateway.sessions import manager
from live_avatar.services.gateway.sessions.placement import Placement
from live_avatar.serving.decode_pool import PoolRules
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.portraits import Portraits
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.clients import Gateway, create_request, failure, portrait, whole_system
from tests.serving.slow_decoding import BREAKING, GREEDY, SLOW

pytestmark = pytest.mark.alone

Code = grpc.StatusCode
LIMIT_S = 0.5
LONG_S = 60.0
"""Longer than a test may take."""
ENTRIES = ("tests.serving.slow_decoding:measure", "tests.serving.slow_decoding:draw")
MEMORY_BUDGET = "every place on every pipeline is taken"


def decoding_with(monkeypatch: pytest.MonkeyPatch, seconds: float = LIMIT_S, memory_bytes: int = 256 << 20) -> None:
    """Gateways made from now on decode with the stand-in."""
    rules = PoolRules(seconds=seconds, cpu_seconds=round(LONG_S), memory_bytes=memory_bytes)
    monkeypatch.setattr(manager, "Portraits", partial(Portraits, rules=rules, entries=ENTRIES))


def request_of(width: int) -> api.CreateSessionRequest:
    request = create_request()
    request.reference_image = portrait((width, 64))
    return request


async def refusal(running: Gateway, width: int) -> ServiceError:
    return await failure(lambda: running.stub.CreateSession(request_of(width), timeout=20))


@pytest.mark.parametrize(
    ("width", "reason", "seconds"),
    [
        (SLOW, "IMAGE_TOO_SLOW", LIMIT_S),
        pytest.param(
            GREEDY, "IMAGE_TOO_LARGE", LONG_S, marks=pytest.mark.skipif(sys.platform != "linux", reason="no limit")
        ),
        (BREAKING, "IMAGE_UNREADABLE", LONG_S),
    ],
)
def test_a_portrait_over_a_limit_is_refused_and_its_place_is_free_again(
    width: int, reason: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding_with(monkeypatch, seconds)

    async def scenario() -> None:
        async with whole_system(capacity=1) as running:
            for _ in range(2):
                error = await refusal(running, width)
                assert (error.code, error.reason, error.field) == (Code.INVALID_ARGUMENT, reason, "reference_image")
            await running.freed()
            await running.create()

    asyncio.run(scenario())


def test_a_client_that_leaves_frees_its_place_and_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding_with(monkeypatch, LONG_S)

    async def scenario() -> None:
        async with whole_system(capacity=1) as running:
            error = await failure(lambda: running.stub.CreateSession(request_of(SLOW), timeout=0.5))
            assert error.code is Code.DEADLINE_EXCEEDED
            async with asyncio.timeout(10):
                while await _is_full(running):  # noqa: ASYNC110 - a client can only ask
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


async def _is_full(running: Gateway) -> bool:
    try:
        await running.create()
    except grpc.aio.AioRpcError as error:
        assert error.details() == MEMORY_BUDGET
        return True
    return False


def test_nothing_is_decoded_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding_with(monkeypatch, LONG_S)

    async def scenario() -> None:
        async with whole_system(capacity=1) as running:
            await running.create()
            error = await refusal(running, SLOW)
            assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, MEMORY_BUDGET)

    asyncio.run(scenario())


def test_what_a_header_shows_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Placement, "place", lambda *_: pytest.fail("a place was taken"))

    async def scenario() -> None:
        async with whole_system() as running:
            request = create_request()
            request.reference_image = b"not a picture"
            error = await failure(lambda: running.stub.CreateSession(request, timeout=20))
            assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "IMAGE_UNREADABLE")

    asyncio.run(scenario())


def test_others_begin_sessions_while_one_sends_slow_portraits(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding_with(monkeypatch, LONG_S)

    async def scenario() -> None:
        async with whole_system(capacity=20) as running, grpc.aio.insecure_channel(running.target) as channel:
            slow = [
                asyncio.create_task(failure(lambda: running.stub.CreateSession(request_of(SLOW), timeout=50)))
                for _ in range(8)
            ]
            await asyncio.sleep(0.5)
            other = AvatarServiceStub(channel)
            began = time.monotonic()
            for _ in range(5):
                await other.CreateSession(create_request(), timeout=10)
            assert time.monotonic() - began < LONG_S / 6
            assert not any(task.done() for task in slow)
            for task in slow:
                task.cancel()
            await asyncio.wait(slow)

    asyncio.run(scenario())


def test_the_limit_on_pixels_is_the_decoders_own() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            assert (await running.info()).limits.max_image_pixels == DEFAULT_LIMITS.max_pixels

    asyncio.run(scenario())
