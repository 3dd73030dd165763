"""Prompts that change before anything is generated, against real services."""

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from live_avatar.launcher.pipeline import LocalPipeline
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.clients import RATE_HZ, Request, Response, Talk, create_request, tone, units

from .harness.running import freed

if TYPE_CHECKING:
    from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceAsyncStub

pytestmark = pytest.mark.alone
MASK = FieldMask(paths=["prompt"])
TIMES = 3


@pytest.mark.parametrize("delivery", [api.DELIVERY_LIVE, api.DELIVERY_OFFLINE])
@pytest.mark.parametrize("door", ["stream", "call"])
def test_a_prompt_may_change_as_soon_as_the_stream_is_open(
    system: LocalPipeline, delivery: api.Delivery.ValueType, door: str
) -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel(system.gateway) as connection:
            for _ in range(TIMES):
                reported = await changed_at_once(AvatarServiceStub(connection), delivery, door)
                assert reported and reported[0] <= 1, "the change came late"
        await freed(system)

    asyncio.run(scenario())


async def changed_at_once(stub: "AvatarServiceAsyncStub", delivery: api.Delivery.ValueType, door: str) -> list[int]:
    """First blocks of the changes of a session whose prompt changes before its portrait is encoded."""
    made = await stub.CreateSession(create_request(delivery=delivery, prompt="at first"), timeout=20)
    config = api.SessionConfig(prompt="a fox")
    async with Talk(stub) as talk:
        await talk.open(made.session_token)
        if door == "stream":
            await talk.say(update=Request.Update(config=config, update_mask=MASK))
        else:
            request = api.UpdateSessionRequest(session_id=made.session.session_id, config=config, update_mask=MASK)
            answer = await stub.UpdateSession(request, timeout=20)
            assert answer.session.config.prompt == "a fox"
        await talk.speak(tone(RATE_HZ))
        await talk.finish()
        received = await talk.rest()
    assert units(received)
    return [one.event.block_index for one in received if one.event.kind == Response.Event.KIND_UPDATE_APPLIED]
