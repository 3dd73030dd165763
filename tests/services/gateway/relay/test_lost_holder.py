"""What a gateway answers for a session whose holder was killed or is frozen."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest

from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import Request, Talk, failure
from tests.services.gateway.relay.holder_process import TIMEOUT_MS, Pair, pair_of_processes

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
PATIENCE_S = 5.0
"""Beyond what the settings say: processes share the machine with others."""
ENDS = pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])


def run(redis_server: str, scenario: Callable[[Pair], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(90), pair_of_processes(redis_server) as pair:
            await scenario(pair)

    asyncio.run(whole())


@ENDS
def test_its_sessions_are_lost_in_time_and_can_be_closed(redis_server: str, end: signal.Signals) -> None:
    async def scenario(pair: Pair) -> None:
        made = await pair.create(delivery=api.DELIVERY_LIVE)
        about = {"session_id": made.session.session_id}
        pair.process.send_signal(end)
        began = time.monotonic()
        error = await failure(lambda: pair.asked.stub.InterruptSession(api.InterruptSessionRequest(**about)))
        assert (error.code, error.reason) == (UNAVAILABLE, "GATEWAY_LOST")
        assert error.retry_after_s
        async with Talk(pair.asked.stub) as talk:
            await talk.say(open=Request.Open(session_token=made.session_token))
            error = await talk.failure()
        assert (error.code, error.reason) == (UNAVAILABLE, "GATEWAY_LOST")
        closed = await pair.asked.stub.CloseSession(api.CloseSessionRequest(**about))
        assert closed.session.state == api.Session.STATE_CLOSED
        assert time.monotonic() - began < 3 * TIMEOUT_MS / 1_000 + PATIENCE_S

    run(redis_server, scenario)


@ENDS
def test_a_stream_on_its_way_ends_with_the_loss(redis_server: str, end: signal.Signals) -> None:
    async def scenario(pair: Pair) -> None:
        made = await pair.create(delivery=api.DELIVERY_LIVE)
        async with Talk(pair.asked.stub) as talk:
            await talk.open(made.session_token)
            pair.process.send_signal(end)
            began = time.monotonic()
            error = await talk.failure()
            assert (error.code, error.reason) == (UNAVAILABLE, "GATEWAY_LOST")
            assert time.monotonic() - began < 3 * TIMEOUT_MS / 1_000 + PATIENCE_S

    run(redis_server, scenario)
