"""Requests are received when their caller is known, and for a bounded time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from live_avatar.services.gateway.access.caller import Caller, set_caller
from live_avatar.services.gateway.api import late_requests
from live_avatar.services.gateway.api.late_requests import LateRequestInterceptor
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.callers import BOOTSTRAP, bearer, guarded_system, refused
from tests.services.gateway.callers import Caller as Client

ANN, BOB = (Caller(tenant="acme", key_id=name) for name in ("ann", "bob"))


class Context:
    def peer(self) -> str:
        return "ipv4:192.0.2.7:4000"

    def time_remaining(self) -> None:
        return None


async def late(arrives: asyncio.Event | None) -> AsyncIterator[Any]:
    """A request that arrives with ``arrives``, or none at all."""
    if arrives is not None:
        await arrives.wait()
        yield api.ListSessionsRequest()


async def begin(interceptor: LateRequestInterceptor, caller: Caller, requests: AsyncIterator[Any]) -> Any:
    async def behaviour(request: object, context: object) -> object:
        return request

    async def continuation(details: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(behaviour)

    set_caller(caller)
    handler: Any = await interceptor.intercept_service(continuation, None)  # type: ignore[arg-type]
    return await handler.stream_unary(requests, Context())


def unfinished(caller: Client, credential: str, arrives: asyncio.Event) -> Any:
    """A call of ListSessions whose request is on its way until ``arrives``."""
    method: Any = caller.channel.stream_unary(
        "/live_avatar.v1.AvatarService/ListSessions",
        request_serializer=api.ListSessionsRequest.SerializeToString,
        response_deserializer=api.ListSessionsResponse.FromString,
    )
    return method(late(arrives), metadata=bearer(credential) if credential else (), timeout=20)


def test_a_stranger_is_rejected_before_the_request_has_arrived() -> None:
    async def scenario() -> None:
        async with guarded_system() as caller:
            assert (await refused(unfinished(caller, "", asyncio.Event()))).reason == "CREDENTIAL_MISSING"

    asyncio.run(scenario())


def test_the_deadline_of_a_call_begins_when_its_request_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_requests, "UNARY_DEADLINE_S", 1.0)

    async def scenario() -> None:
        async with guarded_system() as caller:
            arrives = asyncio.Event()
            call = unfinished(caller, BOOTSTRAP.text, arrives)
            await asyncio.sleep(1.2)
            arrives.set()
            assert await call == api.ListSessionsResponse()

    asyncio.run(scenario())


def test_a_request_has_a_time_to_arrive() -> None:
    async def scenario() -> None:
        with pytest.raises(ServiceError, match="DEADLINE"):
            await begin(LateRequestInterceptor(read_s=0.05), ANN, late(asyncio.Event()))

    asyncio.run(scenario())


def test_a_call_without_a_request_is_malformed() -> None:
    async def scenario() -> None:
        with pytest.raises(ServiceError, match="MESSAGE_MALFORMED"):
            await begin(LateRequestInterceptor(), ANN, late(None))

    asyncio.run(scenario())


def test_so_many_requests_of_a_caller_are_received_together_and_others_wait_for_none_of_them() -> None:
    async def scenario() -> None:
        interceptor, arrives, here = LateRequestInterceptor(together=2), asyncio.Event(), asyncio.Event()
        here.set()
        slow = [asyncio.create_task(begin(interceptor, ANN, late(arrives))) for _ in range(2)]
        await asyncio.sleep(0)
        third = asyncio.create_task(begin(interceptor, ANN, late(here)))
        assert await asyncio.create_task(begin(interceptor, BOB, late(here))) == api.ListSessionsRequest()
        assert not third.done()
        arrives.set()
        assert await asyncio.gather(*slow, third) == [api.ListSessionsRequest()] * 3
        assert not len(interceptor._places)

    asyncio.run(scenario())
