"""How many calls of one caller may be in progress."""

import asyncio
from typing import Any

import grpc
import pytest

from live_avatar.services.gateway.access.caller import Caller, set_caller
from live_avatar.services.gateway.api.call_limit import CallLimitInterceptor
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.callers import BOOTSTRAP, guarded_system, refused


class Context:
    def peer(self) -> str:
        return "ipv4:192.0.2.7:4000"


async def begin(limit: CallLimitInterceptor, caller: Caller, end: asyncio.Event) -> Any:
    """A call of ``caller`` that lasts until ``end``."""

    async def behaviour(request: object, context: object) -> str:
        await end.wait()
        return "done"

    async def continuation(details: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(behaviour)

    set_caller(caller)
    handler: Any = await limit.intercept_service(continuation, None)  # type: ignore[arg-type]
    return await handler.unary_unary(None, Context())


def test_a_caller_has_so_many_calls_and_others_have_theirs() -> None:
    async def scenario() -> None:
        limit, end = CallLimitInterceptor(3), asyncio.Event()
        ann, bob, nameless = (Caller(tenant="acme", key_id=name) for name in ("ann", "bob", ""))
        running = [asyncio.create_task(begin(limit, who, end)) for who in (ann, bob, nameless) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for who in (ann, bob, nameless):
            with pytest.raises(ServiceError, match="TOO_MANY_CALLS"):
                await asyncio.create_task(begin(limit, who, end))
        end.set()
        assert await asyncio.gather(*running) == ["done"] * 9
        assert await begin(limit, ann, end) == "done"
        assert not limit._running

    asyncio.run(scenario())


def test_a_gateway_limits_calls() -> None:
    async def scenario() -> None:
        async with guarded_system(limits={"max_calls_per_caller": 1}) as anyone:
            caller = anyone.using(BOOTSTRAP.text)
            calls = (caller.call(api.ListSessionsRequest()) for _ in range(100))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            codes = {answer.code() for answer in answers if isinstance(answer, grpc.aio.AioRpcError)}
            assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert any(isinstance(answer, api.ListSessionsResponse) for answer in answers)
            await caller.call(api.ListSessionsRequest())
            assert (await refused(anyone.call(api.ListSessionsRequest()))).reason == "CREDENTIAL_MISSING"

    asyncio.run(scenario())
