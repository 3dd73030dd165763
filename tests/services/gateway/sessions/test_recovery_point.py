"""What a session goes on from: bounded, without gaps, and as it was sent."""

import asyncio
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, SessionKey, Sink, StreamBlocksRequest
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.services.gateway.audio.kept_sound import KeptSound
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.sessions.block_scheduler import BlockScheduler
from live_avatar.services.gateway.sessions.conditioning import Conditioning, Prompts
from live_avatar.services.gateway.sessions.line import Line
from live_avatar.services.gateway.sessions.live import LiveDelivery
from live_avatar.services.gateway.sessions.policy import LiveRules
from live_avatar.services.gateway.sessions.recovery_point import FinishedBlocks
from live_avatar.services.gateway.sessions.suspension import LOSSES, Suspension
from live_avatar.serving.errors import ServiceError, stage_lost
from live_avatar.serving.priming import finished_block
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.live_session import admit, delivery_of, live_config, live_context, live_session

WINDOW = 4
KEY = SessionKey(session_id="a", epoch=2)


def pieces(index: int, size: int = 10) -> list[StreamVideoResponse.FinishedBlock]:
    block = StreamBlocksRequest.Block(key=SessionKey(session_id="a", epoch=1), index=index)
    block.latent.data = bytes(size)
    return [one.finished_block for one in finished_block(block)]


def filled(*indexes: int) -> FinishedBlocks:
    blocks = FinishedBlocks(WINDOW)
    for index in indexes:
        for piece in pieces(index):
            blocks.receive(piece)
    return blocks


@pytest.mark.parametrize(
    ("indexes", "next_block", "count"),
    [
        ((), 0, 0),
        ((0, 1), 2, 2),
        (range(9), 9, 4),
        (range(9), 8, 4),
        ((0, 2, 3), 4, 2),
        ((0, 1), 3, 0),
        (range(99), 5, 0),
    ],
)
def test_blocks_without_a_gap_prime_a_pipeline(indexes: tuple[int, ...], next_block: int, count: int) -> None:
    blocks = filled(*indexes)
    assert blocks.count_before(next_block) == count
    first = blocks.first_primed(next_block)
    assert first == next_block - count
    messages = [blocks.message(KEY, index, 60) for index in range(first, next_block)]
    assert [one.block.index for one in messages] == list(range(first, next_block))
    assert all(one.block.key == KEY and one.block.prime and one.block.budget.seconds == 60 for one in messages)


@pytest.mark.parametrize(
    ("indexes", "next_block", "coming", "first"),
    [((), 0, 0, 0), ((), 2, 2, 0), ((0, 1), 3, 1, 0), (range(6), 8, 2, 4), (range(6), 11, 5, 7), ((), 3, 0, 3)],
)
def test_blocks_on_their_way_prime_a_pipeline_too(
    indexes: tuple[int, ...], next_block: int, coming: int, first: int
) -> None:
    assert filled(*indexes).first_primed(next_block, coming) == first


def test_a_block_in_pieces_counts_once_all_have_come() -> None:
    blocks, (first, second, third) = filled(0), pieces(1, 2 << 20)
    blocks.receive(first)
    blocks.receive(second)
    assert blocks.count_before(2) == 0
    blocks.receive(third)
    assert blocks.count_before(2) == 2


def test_half_a_block_of_a_lost_pipeline_is_forgotten() -> None:
    blocks, (first, *_) = filled(0, 1, 2), pieces(3, 2 << 20)
    blocks.receive(first)
    blocks.rewind(2)
    assert (blocks.count_before(2), blocks.count_before(3)) == (2, 0)
    for index in (2, 3):
        blocks.receive(pieces(index)[0])
    assert blocks.count_before(4) == 4


def test_a_block_that_is_too_large_is_refused() -> None:
    blocks = FinishedBlocks(WINDOW)
    with pytest.raises(ServiceError):
        for piece in pieces(0, 17 << 20):
            blocks.receive(piece)


def test_sound_is_kept_between_two_positions() -> None:
    sound, samples = KeptSound(), np.arange(100, dtype=np.float32)
    sound.append(samples[:60])
    sound.append(samples[60:])
    sound.forget(30)
    sound.truncate(80)
    assert (sound.first, sound.end) == (30, 80)
    assert sound.read(40, 50).tolist() == list(range(40, 50))
    assert sound.read(70, 200).tolist() == list(range(70, 80))
    assert sound.read(80, 70).size == 0
    sound.forget(1_000)
    assert (sound.first, sound.end) == (80, 80)


def test_only_losses_suspend_and_not_too_many_of_them() -> None:
    suspension = Suspension(Limits(max_losses_per_minute=2))
    assert not suspension.begin(ServiceError(stage_lost("").code, "INTERNAL", ""), 0.0)
    for now in (0.0, 30.0):
        assert suspension.begin(stage_lost("a stage"), now)
        assert suspension.expire().message == "a stage"
        suspension.end()
        assert suspension.cause is None
    assert not suspension.begin(stage_lost("a stage"), 59.0)
    assert suspension.refusal is not None and "3 times within a minute" in suspension.refusal.message
    assert suspension.begin(stage_lost("a stage"), 61.0)
    assert {"STAGE_LOST", "DRAINING"} <= LOSSES


def test_nothing_is_fed_to_a_session_that_has_ended_though_a_block_is_due() -> None:
    async def scenario() -> None:
        session = live_session()
        session.conditioning.portrait_sent()
        asked: list[int] = []
        cast(SimpleNamespace, session.pipeline).slot = asked.append
        session.end()
        scheduler = BlockScheduler(session, Telemetry("test"))
        feeding = asyncio.create_task(scheduler.run())
        await asyncio.sleep(0.01)
        feeding.cancel()
        await asyncio.wait([feeding])
        assert not asked, "a slot was asked for"

    asyncio.run(scenario())


@pytest.mark.parametrize("depth", [3, 6])
def test_the_lead_and_the_blocks_ahead_follow_the_depth_of_the_pipeline(depth: int) -> None:
    async def scenario() -> None:
        session = live_session()
        session.conditioning.sink_sent(4, Sink(version=1))
        before = Line(session, session.pipeline, session.key)
        services = tuple(f"service {number}" for number in range(depth))
        pipeline = cast(Pipeline, SimpleNamespace(services=services, close=lambda key: None))
        session.resume(Line(session, pipeline, session.key), stage_lost("a stage"))
        pacer = delivery_of(session).pacer
        assert pacer.rules is pacer.playback.rules and pacer.rules.max_lead_ms == (depth + 2) * 480
        while session.may_admit:
            admit(session)
        assert session.ledger.admitted == depth + 2
        assert not session.is_on(before)

    asyncio.run(scenario())


def test_a_lead_that_is_set_stays() -> None:
    delivery = LiveDelivery(live_context(live_config(), LiveRules(max_lead_ms=2_000)))
    delivery.move(9)
    assert delivery.pacer.rules.max_lead_ms == 2_000


def test_conditioning_comes_again_with_the_blocks_from_which_it_held() -> None:
    async def scenario() -> None:
        config = api.SessionConfig(prompt="first")
        conditioning = Conditioning(Prompts(config, lambda block: None), switch_block=4)
        conditioning.portrait_encoded(Sink(version=0))
        conditioning.first_body()
        conditioning.sink_sent(4, Sink(version=1))
        for block, prompt in ((2, "second"), (6, "third")):
            conditioning.prompts.ask(prompt, block)
            update = conditioning.prompts.take(block)
            assert update is not None
            conditioning.prompts.sent(update, block)
        own = (4, ConditioningBody(sink=Sink(version=1)))
        third = (6, ConditioningBody(prompt="third"))
        assert conditioning.bodies_since(3) == [
            (2, ConditioningBody(sink=Sink(version=0), prompt="second")), own, third
        ]  # fmt: skip
        assert conditioning.bodies_since(7) == [(6, ConditioningBody(sink=Sink(version=0), prompt="third")), own]
        assert conditioning.prompts.first_block(5) == 6
        conditioning.rewind(0)
        assert not conditioning.allows(0)
        assert own not in conditioning.bodies_since(0)

    asyncio.run(scenario())


def test_an_update_that_did_not_go_down_waits_again() -> None:
    async def scenario() -> None:
        prompts = Prompts(api.SessionConfig(prompt="first"), lambda block: None)
        prompts.compose()
        answer = prompts.ask("second", 1)
        update = prompts.take(1)
        assert update is not None
        later = prompts.ask("third", 1)
        prompts.put_back(update)
        update = prompts.take(2)
        assert update is not None and update.prompt == "third"
        prompts.sent(update, 2)
        await asyncio.sleep(0)
        assert (answer.result(), later.result()) == (2, 2)

    asyncio.run(scenario())
