"""Changes of the prompt: before the portrait is encoded, many at once, and of sessions that leave."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from live_avatar.services.gateway.sessions import conditioning
from live_avatar.services.gateway.sessions.conditioning import IDLE_PERIOD_S, MAX_WAITING_CALLS, Prompts
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import (
    RATE_HZ,
    Gateway,
    Request,
    Response,
    Talk,
    failure,
    tone,
    units,
    whole_system,
)
from tests.services.gateway.live_client import viewer

MASK = FieldMask(paths=["prompt"])
APPLIED = Response.Event.KIND_UPDATE_APPLIED
FINISHED = Response.Event.KIND_UTTERANCE_FINISHED


def changed(prompt: str) -> api.SessionConfig:
    return api.SessionConfig(prompt=prompt)


def stream_update(prompt: str) -> Request.Update:
    return Request.Update(config=changed(prompt), update_mask=MASK)


async def call_update(running: Gateway, session_id: str, prompt: str) -> api.UpdateSessionResponse:
    request = api.UpdateSessionRequest(session_id=session_id, config=changed(prompt), update_mask=MASK)
    return await running.stub.UpdateSession(request, timeout=10)


def sent(running: Gateway) -> list[tuple[int, str]]:
    """Prompts that reached the audio encoder, with the blocks they hold from; the first of them with a sink."""
    bodies = [(first, body) for first, body in running.pipeline.encoder.bodies if body.HasField("prompt")]
    assert bodies[0][1].HasField("sink"), "control came before the first conditioning"
    assert next(first for first, _ in bodies) == 0
    return [(first, body.prompt) for first, body in bodies]


@asynccontextmanager
async def unconditioned(running: Gateway, **config: Any) -> AsyncIterator[tuple[str, Talk]]:
    """An open stream whose portrait is not encoded yet."""
    running.pipeline.decoder.portrait_encoded.clear()
    made = await running.create(prompt="at first", **config)
    async with Talk(running.stub) as talk:
        await talk.open(made.session_token)
        yield made.session.session_id, talk


@pytest.mark.parametrize("delivery", [api.DELIVERY_LIVE, api.DELIVERY_OFFLINE])
@pytest.mark.parametrize("door", ["stream", "call"])
def test_a_prompt_changes_before_the_portrait_is_encoded(delivery: api.Delivery.ValueType, door: str) -> None:
    async def scenario() -> None:
        async with whole_system() as running, unconditioned(running, delivery=delivery) as (session_id, talk):
            if door == "stream":
                await talk.say(update=stream_update("a hen"))
                await talk.say(update=stream_update("a fox"))
            else:
                await call_update(running, session_id, "a hen")
                answer = await call_update(running, session_id, "a fox")
                assert answer.effective_block_index == 0
                assert answer.session.config.prompt == "a fox"
            await talk.speak(tone(RATE_HZ))
            await talk.end_utterance()
            await asyncio.sleep(0.2)
            assert not running.pipeline.encoder.bodies
            running.pipeline.decoder.portrait_encoded.set()
            if delivery == api.DELIVERY_OFFLINE:
                await talk.finish()
            received = [await talk.receive()]
            while not units(received):
                received.append(await talk.receive())
            assert sent(running) == [(0, "a fox")]
            reported = [one.event.block_index for one in received if one.event.kind == APPLIED]
            assert reported == [0]

    asyncio.run(scenario())


@pytest.mark.parametrize("delivery", [api.DELIVERY_LIVE, api.DELIVERY_OFFLINE])
def test_any_control_may_come_before_the_portrait_is_encoded(delivery: api.Delivery.ValueType) -> None:
    async def scenario() -> None:
        live = delivery == api.DELIVERY_LIVE
        listening = api.LISTENING_STREAMING
        async with whole_system() as running, unconditioned(running, delivery=delivery, listening=listening) as one:
            session_id, talk = one
            await talk.say(update=stream_update("a fox"))
            await talk.speak(tone(RATE_HZ), utterance="first")
            if live:
                await running.stub.InterruptSession(api.InterruptSessionRequest(session_id=session_id), timeout=20)
                await talk.say(interrupt=Request.Interrupt())
            await talk.end_utterance("first")
            await talk.say(playback_report=Request.PlaybackReport())
            await talk.say(credit=Request.Credit(video_units=0))
            await talk.speak(tone(RATE_HZ), utterance="second")
            await talk.end_utterance("second")
            await talk.finish()
            await asyncio.sleep(0.2)
            running.pipeline.decoder.portrait_encoded.set()
            received = await talk.rest()
            assert units(received)
            assert sent(running) == [(0, "a fox")]
            finished = [
                one.event.utterance_id for one in received if one.event.kind == Response.Event.KIND_UTTERANCE_FINISHED
            ]
            assert finished == (["second"] if live else ["first", "second"])
            await running.freed()

    asyncio.run(scenario())


def test_a_flood_of_updates_costs_one_encoding_a_block_and_the_last_one_wins() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            await one.until_block(2)
            began = time.monotonic()
            for number in range(2_000):
                await one.say(update=stream_update(f"prompt {number}"))
            blocks = one.units()[-1].block_index
            await one.until_block(blocks + 12, timeout_s=20)
            changes = sent(running)
            assert changes[-1][1] == "prompt 1999"
            firsts = [first for first, _ in changes]
            # Where the machine is so busy that no block is admitted for a period, a second change of it is right.
            idle_periods = int((time.monotonic() - began) / IDLE_PERIOD_S)
            assert len(firsts) <= len(set(firsts)) + idle_periods, "two changes before one block"
            assert len(firsts) < 50
            assert not one.ended.is_set()

    asyncio.run(scenario())


def test_calls_that_were_overtaken_get_the_answer_of_the_last_one() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running) as one:
            await one.until_block(2)
            session_id = next(iter(running.pipeline.encoder.sessions))[0]
            await call_update(running, session_id, "already down")
            calls = [call_update(running, session_id, f"prompt {number}") for number in range(MAX_WAITING_CALLS)]
            answers = await asyncio.gather(*calls)
            last = max(answer.effective_block_index for answer in answers)
            assert len(sent(running)) <= 4
            assert any(first == last for first, _ in sent(running))
            assert {answer.effective_block_index for answer in answers} <= {first for first, _ in sent(running)}

    asyncio.run(scenario())


def test_more_calls_than_may_wait_are_refused() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            # Nothing speaks, no block is admitted: the second change waits for its second.
            made = await running.create(prompt="at first", listening=api.LISTENING_STREAMING)
            session_id = made.session.session_id
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                while not running.pipeline.encoder.bodies:  # noqa: ASYNC110 - as from another process
                    await asyncio.sleep(0.01)
                assert (await call_update(running, session_id, "down at once")).effective_block_index == 0
                calls = [
                    asyncio.ensure_future(call_update(running, session_id, f"prompt {number}"))
                    for number in range(MAX_WAITING_CALLS)
                ]
                await asyncio.sleep(0.2)
                error = await failure(lambda: call_update(running, session_id, "one too many"))
                assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
                assert {answer.effective_block_index for answer in await asyncio.gather(*calls)} == {0}
                assert [prompt for _, prompt in sent(running)] == [
                    "at first", "down at once", f"prompt {MAX_WAITING_CALLS - 1}"
                ]  # fmt: skip

    asyncio.run(scenario())


def test_the_same_prompt_again_goes_nowhere() -> None:
    async def scenario() -> None:
        async with whole_system() as running, viewer(running, prompt="a fox") as one:
            await one.until_block(2)
            session_id = next(iter(running.pipeline.encoder.sessions))[0]
            answer = await call_update(running, session_id, "a fox")
            assert answer.effective_block_index >= 2
            assert (await one.until_event(APPLIED)).block_index == answer.effective_block_index
            assert sent(running) == [(0, "a fox")]

    asyncio.run(scenario())


def test_who_leaves_in_a_flood_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            made = await running.create(delivery=api.DELIVERY_LIVE)
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                for number in range(500):
                    await talk.say(update=stream_update(f"prompt {number}"))
                talk.cancel()
            await running.freed()
            seen = len(running.pipeline.encoder.bodies)
            await asyncio.sleep(1.2)
            assert len(running.pipeline.encoder.bodies) == seen

    asyncio.run(scenario())


def asked(prompts: Prompts, texts: list[str], block: int) -> "list[asyncio.Future[int]]":
    return [prompts.ask(text, block) for text in texts]


def test_one_change_waits_and_all_who_asked_share_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditioning, "IDLE_PERIOD_S", 3600.0)

    async def scenario() -> None:
        applied: list[int] = []
        prompts = Prompts(api.SessionConfig(prompt="old"), applied.append)
        assert (await prompts.ask("first", 0), prompts.compose()) == (0, "first")
        answers = asked(prompts, ["a", "b", "c"], 4)
        assert prompts.due(4)
        update = prompts.take(4)
        assert update is not None
        assert update.prompt == "c"
        prompts.apply(update, 4)
        assert [answer.result() for answer in answers] == [4, 4, 4]
        asked(prompts, ["d"], 4)
        assert not prompts.due(4)
        assert prompts.due(5)
        taken_back = asked(prompts, ["c"], 5)[0]
        assert taken_back.result() == 5
        assert not prompts.due(6)
        assert prompts.take(6) is None
        assert applied == [0, 4, 5]

    asyncio.run(scenario())


def test_a_session_has_so_many_calls_waiting_and_no_more() -> None:
    prompts = Prompts(api.SessionConfig(), lambda block: None)
    places = [prompts.waiting_call() for _ in range(MAX_WAITING_CALLS + 1)]
    for place in places[:-1]:
        place.__enter__()
    with pytest.raises(ServiceError, match="TOO_MANY_CALLS"):
        places[-1].__enter__()
    places[0].__exit__(None, None, None)
    with prompts.waiting_call():
        pass
