"""How often one caller may begin calls."""

import asyncio
from typing import Any

import grpc
import pytest

from live_avatar.services.gateway.access.caller import ANONYMOUS, Caller, set_caller
from live_avatar.services.gateway.api import call_rate
from live_avatar.services.gateway.api.call_rate import CallRateInterceptor, CallRates
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.callers import BOOTSTRAP, guarded_system, refused


def test_a_burst_then_the_rate_and_others_are_not_affected() -> None:
    now = [0.0]
    rates = CallRates(10, lambda: now[0])
    for _ in range(20):
        rates.take("ann")
    with pytest.raises(ServiceError) as caught:
        rates.take("ann")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
    assert caught.value.retry_after_s == pytest.approx(0.1)
    rates.take("bob")
    now[0] += 0.1
    rates.take("ann")
    with pytest.raises(ServiceError):
        rates.take("ann")
    now[0] += 3600
    for _ in range(20):
        rates.take("ann")
    with pytest.raises(ServiceError):
        rates.take("ann")


def test_the_table_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_rate, "_CALLERS_KEPT", 3)
    rates = CallRates(1_000)
    for turn in range(10):
        rates.take(str(turn))
        rates.take("kept")
    assert len(rates) == 3


class Context:
    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer


async def begin(limit: CallRateInterceptor, caller: Caller, peer: str, *, stream: bool = False) -> int:
    """Makes 5 calls; returns how many were let through."""
    set_caller(caller)

    async def single(request: object, context: object) -> str:
        return "done"

    async def many(request: object, context: object) -> Any:
        yield "done"

    async def continuation(details: object) -> Any:
        if stream:
            return grpc.stream_stream_rpc_method_handler(many)
        return grpc.unary_unary_rpc_method_handler(single)

    handler: Any = await limit.intercept_service(continuation, None)  # type: ignore[arg-type]
    good = 0
    for _ in range(5):
        try:
            if stream:
                assert [one async for one in handler.stream_stream(None, Context(peer))] == ["done"]
            else:
                assert await handler.unary_unary(None, Context(peer)) == "done"
            good += 1
        except ServiceError:
            continue
    return good


@pytest.mark.parametrize("stream", [False, True])
def test_callers_are_credentials_or_addresses(stream: bool) -> None:
    async def scenario() -> None:
        limit = CallRateInterceptor(1)
        ann = Caller(tenant="acme", key_id="ann")
        assert await begin(limit, ann, "ipv4:127.0.0.1:1", stream=stream) == 2
        assert await begin(limit, ann, "ipv4:192.0.2.1:1", stream=stream) == 0
        assert await begin(limit, ANONYMOUS, "ipv4:192.0.2.7:1", stream=stream) == 2
        assert await begin(limit, ANONYMOUS, "ipv4:192.0.2.7:2", stream=stream) == 0, "another port, the same caller"
        assert await begin(limit, ANONYMOUS, "ipv6:%5B2001:db8::1%5D:2", stream=stream) == 2
        for local in ("ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1", "unix:"):
            assert await begin(limit, ANONYMOUS, local, stream=stream) == 5

    asyncio.run(scenario())


def test_a_gateway_limits_the_rate() -> None:
    async def scenario() -> None:
        async with guarded_system(limits={"max_calls_per_second": 1}) as anyone:
            caller = anyone.using(BOOTSTRAP.text)
            for _ in range(2):
                await caller.call(api.ListSessionsRequest())
            error = await refused(caller.call(api.ListSessionsRequest()))
            assert (error.reason, 0 < (error.retry_after_s or 0) <= 1) == ("TOO_MANY_CALLS", True)

    asyncio.run(scenario())
