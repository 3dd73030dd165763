"""How fast one stream's messages are read: as fast as any honest client speaks, and no faster in the long run."""

import asyncio
import time

import pytest

from live_avatar.services.gateway.api import message_rate
from live_avatar.services.gateway.api.message_rate import MessageRate
from live_avatar.services.gateway.limits import Limits
from tests.services.gateway.clients import RATE_HZ, Request, Response, Talk, tone, units, whole_system
from tests.services.gateway.live_client import viewer

LIMITS = Limits()


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(message_rate, "time", clock)
    monkeypatch.setattr(message_rate, "asyncio", clock)
    return clock


async def take(rate: MessageRate, messages: int) -> None:
    for _ in range(messages):
        await rate.take()


def test_a_burst_is_free_and_the_rest_comes_at_the_rate(clock: Clock) -> None:
    rate = MessageRate(per_s=100, burst=50)
    asyncio.run(take(rate, 50))
    assert clock.now == 0
    asyncio.run(take(rate, 1_000))
    assert clock.now == pytest.approx(10, abs=0.05)
    clock.now += 3600
    before = clock.now
    asyncio.run(take(rate, 50))
    assert clock.now == before


@pytest.mark.parametrize("piece_s", [0.01, 0.02])
def test_speech_in_small_pieces_is_never_held_back(clock: Clock, piece_s: float) -> None:
    rate = MessageRate(LIMITS.max_messages_per_second, LIMITS.message_burst)

    async def live() -> None:
        for _ in range(round(60 / piece_s)):
            await take(rate, 2)  # a piece, and a credit for each frame and report at most
            clock.now += piece_s

    asyncio.run(live())
    assert clock.now == pytest.approx(60)


def test_a_recording_in_small_pieces_is_read_many_times_faster_than_it_plays(clock: Clock) -> None:
    rate = MessageRate(LIMITS.max_messages_per_second, LIMITS.message_burst)
    asyncio.run(take(rate, round(LIMITS.max_whole_file_seconds / 0.02)))
    assert clock.now < LIMITS.max_whole_file_seconds / 10


def test_a_flood_is_read_no_faster_than_the_rate_and_its_session_lives() -> None:
    async def scenario() -> None:
        settings = {"limits": {"max_messages_per_second": 100}}
        async with whole_system(settings=settings) as running, viewer(running) as one:
            await one.until_block(1)
            began = time.monotonic()
            for _ in range(LIMITS.message_burst + 150):
                await one.say(credit=Request.Credit())
            await one.speak(tone(RATE_HZ), "after the flood")
            await one.until_event(Response.Event.KIND_UTTERANCE_STARTED, timeout_s=20)
            assert time.monotonic() - began > 1.0
            assert not one.ended.is_set()

    asyncio.run(scenario())


def test_a_recording_in_tiny_pieces_is_received_in_few_messages() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            made = await running.create()
            received: list[int] = []
            encoder = running.pipeline.encoder
            encoder.before_audio = lambda request: received.append(len(request.samples))
            speech = tone(RATE_HZ // 5)
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                for first in range(0, len(speech), 4):
                    await talk.speak(speech[first : first + 4])
                await talk.finish()
                assert units(await talk.rest())
            assert len(received) < 4

    asyncio.run(scenario())
