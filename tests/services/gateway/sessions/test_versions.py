"""Pipelines of two neighbouring protocol versions side by side, as during an upgrade."""

import asyncio

import pytest

from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import Talk, units
from tests.services.gateway.fake_pipeline import fake_pipeline
from tests.services.gateway.sessions.test_moves import draining, left
from tests.services.gateway.sessions.test_recovery import SPEECH, System, fleet

pytestmark = pytest.mark.alone

ROOMY = 4
"""Places of the older pipeline, more than those of any other: it comes first wherever room decides."""


async def placed(running: System, number: int) -> api.CreateSessionResponse:
    """Fills places until pipeline ``number`` has a session; the others are closed again."""
    made: dict[str, api.CreateSessionResponse] = {}
    while not running.pipelines[number].encoder.sessions:
        one = await running.gateway.create(listening=api.LISTENING_STREAMING)
        made[one.session.session_id] = one
    (kept,) = {name for name, _ in running.pipelines[number].encoder.sessions}
    for name in made.keys() - {kept}:
        await running.gateway.stub.CloseSession(api.CloseSessionRequest(session_id=name), timeout=10)
    return made[kept]


async def until_block(talk: Talk, block: int) -> None:
    unit = api.StreamAvatarResponse.VideoUnit()
    while unit.block_index < block:
        received = await talk.receive()
        unit = received.video_unit if received.HasField("video_unit") else unit


@pytest.mark.parametrize("drains", [False, True])
def test_a_session_goes_on_with_a_pipeline_that_can_prime(drains: bool) -> None:
    async def scenario() -> None:
        pipelines = [fake_pipeline(1), fake_pipeline(ROOMY, older=True), fake_pipeline(1)]
        async with fleet(pipelines, ROOMY + 2) as running:
            made, services = await placed(running, 0), [0, 1, 2] if drains else []
            async with Talk(running.gateway.stub) as talk:
                await talk.open(made.session_token, credits=4)
                await talk.speak(SPEECH)
                await talk.finish()
                await until_block(talk, 2)
                lost = [] if drains else [running.cut()]
                async with draining(running.pipelines[0], *services) as leaving:
                    assert await running.moved(0, *lost) == 2
                    await left(leaving)
                await talk.grant(100)
                rest = units(await talk.rest())
            assert [unit.block_index for unit in rest if unit.frame_count][-1] == 7
            assert running.pipelines[2].decoder.primed and not running.pipelines[1].encoder.sent

    asyncio.run(scenario())


def test_an_older_pipeline_serves_sessions_as_before_and_its_loss_has_a_reason() -> None:
    async def scenario() -> None:
        async with fleet([fake_pipeline(1), fake_pipeline(1, older=True)], 2) as running:
            made = await placed(running, 1)
            async with Talk(running.gateway.stub) as talk:
                await talk.open(made.session_token, credits=4)
                await talk.speak(SPEECH)
                await until_block(talk, 2)
                running.heads[1].reset()
                error = await talk.failure()
            assert error.reason == "STAGE_LOST" and error.retry_after_s is not None

    asyncio.run(scenario())


def test_a_session_without_blocks_goes_on_with_an_older_pipeline() -> None:
    async def scenario() -> None:
        async with fleet([fake_pipeline(1), fake_pipeline(1, older=True)], 2) as running:
            made = await placed(running, 0)
            running.heads[0].reset()
            await running.moved(0)
            async with Talk(running.gateway.stub) as talk:
                await talk.open(made.session_token)
                await talk.speak(SPEECH)
                await talk.finish()
                made_units = units(await talk.rest())
            assert [unit.block_index for unit in made_units if unit.frame_count] == list(range(8))

    asyncio.run(scenario())
