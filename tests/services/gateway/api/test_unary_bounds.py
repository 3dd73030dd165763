"""What single calls may ask for: times near zero, and lists at the same time."""

import asyncio
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from live_avatar.services.gateway.api.servicer import MAX_LISTS
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import create_request, failure, whole_system

Code = grpc.StatusCode
LONG = "a" * 129


@pytest.mark.parametrize("nanos", [1, 999_999, 1_000_000, 1_000_001])
def test_the_shortest_life_is_not_the_longest(nanos: int) -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            request = create_request()
            request.max_duration.FromNanoseconds(nanos)
            made = await running.stub.CreateSession(request, timeout=5)
            assert 1 <= made.session.max_duration.ToMilliseconds() <= 2

    asyncio.run(scenario())


def test_no_more_lists_are_made_than_may_be_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    list_page = SessionStore.list_page

    async def scenario() -> None:
        may_go_on = asyncio.Event()

        async def slow(store: SessionStore, tenant: str, size: int, before: str = "") -> Any:
            await may_go_on.wait()
            return await list_page(store, tenant, size, before)

        monkeypatch.setattr(SessionStore, "list_page", slow)
        async with whole_system() as running:
            await running.create()
            request = api.ListSessionsRequest()
            calls = [asyncio.ensure_future(running.stub.ListSessions(request, timeout=10)) for _ in range(MAX_LISTS)]
            await asyncio.sleep(0.2)
            error = await failure(lambda: running.stub.ListSessions(request, timeout=10))
            assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
            may_go_on.set()
            assert all(len(one.sessions) == 1 for one in await asyncio.gather(*calls))
            await running.stub.ListSessions(request, timeout=10)

    asyncio.run(scenario())


LONG_NAMES = {
    "get": ("GetSession", api.GetSessionRequest(session_id=LONG)),
    "close": ("CloseSession", api.CloseSessionRequest(session_id=LONG)),
    "list": ("ListSessions", api.ListSessionsRequest(page_token=LONG)),
    "interrupt": ("InterruptSession", api.InterruptSessionRequest(request_id=LONG)),
    "update": ("UpdateSession", api.UpdateSessionRequest(session_id=LONG)),
    "update of a long path": ("UpdateSession", api.UpdateSessionRequest(update_mask=FieldMask(paths=[LONG]))),
}


def test_long_names_are_refused_by_every_call() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            for name, (method, request) in LONG_NAMES.items():
                error = await failure(partial(getattr(running.stub, method), request, timeout=5))
                assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "NAME_TOO_LONG"), name

    asyncio.run(scenario())
