"""Barge-in by every door, client library to gateway over real sockets: the second utterance is always spoken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from live_avatar.client import AvatarClient, AvatarError, Event, LiveStream, Session, SessionOptions, live_stream
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import RATE_HZ, Gateway, portrait, tone, whole_system

pytestmark = pytest.mark.alone

OPTIONS = SessionOptions(sample_rate_hz=RATE_HZ, video="h264", delivery="live")


@dataclass
class Conversation:
    """A live session of the client library, and what it says."""

    running: Gateway
    session: Session
    stream: LiveStream
    events: list[Event] = field(default_factory=list)

    async def listen(self) -> None:
        async for result in self.stream:
            if isinstance(result, Event):
                self.events.append(result)

    def of(self, kind: str) -> list[str]:
        """Names of the utterances of which this was said."""
        return [event.utterance_id for event in self.events if event.kind == kind]

    async def until(self, kind: str, count: int = 1) -> None:
        async with asyncio.timeout(10):
            while len(self.of(kind)) < count:  # noqa: ASYNC110 - as any program that looks at its events
                await asyncio.sleep(0.01)

    async def interrupt(self, door: str) -> None:
        """Barge-in by the open stream, by a call of ours, or by one of another process."""
        if door == "stream":
            await self.stream.interrupt()
        elif door == "call":
            await self.session.interrupt()
        else:
            request = api.InterruptSessionRequest(session_id=self.session.session_id, request_id="supervisor's")
            await self.running.stub.InterruptSession(request, timeout=20)
            await self.until("UTTERANCE_INTERRUPTED")


@asynccontextmanager
async def conversation(running: Gateway, options: SessionOptions = OPTIONS) -> AsyncIterator[Conversation]:
    async with AvatarClient(running.target) as client:
        session = await client.create_session(portrait(), options)
        async with live_stream(session) as stream:
            one = Conversation(running, session, stream)
            listening = asyncio.create_task(one.listen())
            try:
                yield one
                await asyncio.wait_for(listening, 30)
            finally:
                listening.cancel()


@pytest.mark.parametrize("names", [("one", "two"), ("", ""), ("same", "same")])
@pytest.mark.parametrize("door", ["stream", "call", "another process"])
def test_the_second_utterance_is_spoken(door: str, names: tuple[str, str]) -> None:
    async def scenario() -> None:
        async with whole_system() as running, conversation(running) as one:
            await one.stream.send_audio(tone(5 * RATE_HZ), names[0])
            await one.until("UTTERANCE_STARTED")
            await one.interrupt(door)
            await one.stream.send_audio(tone(RATE_HZ), names[1])
            await one.stream.send_audio(tone(RATE_HZ), names[1])
            await one.stream.end()
        assert one.of("UTTERANCE_STARTED") == list(names)
        assert one.of("UTTERANCE_FINISHED") == [names[1]]
        assert len(one.of("UTTERANCE_INTERRUPTED")) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("door", ["stream", "call"])
def test_speech_on_its_way_is_not_spoken(door: str) -> None:
    """The call may pass the speech before it: not a piece may have come when it does."""

    async def scenario() -> None:
        async with whole_system() as running, conversation(running) as one:
            for index in range(8):
                sending = asyncio.create_task(one.stream.send_audio(tone(30 * RATE_HZ), f"old {index}"))
                await asyncio.sleep(0.003 * index)
                await one.interrupt(door)
                await sending
            await one.stream.send_audio(tone(RATE_HZ), "new")
            await one.stream.end()
        assert one.of("UTTERANCE_FINISHED") == ["new"]
        assert one.of("UTTERANCE_STARTED")[-1] == "new"

    asyncio.run(scenario())


def test_interruptions_at_every_moment_of_an_utterance() -> None:
    """Before any speech, twice, after its end, and once it is over; then the same call a second time."""

    async def scenario() -> None:
        async with whole_system() as running, conversation(running) as one:
            await one.session.interrupt()
            await one.session.interrupt()
            await one.stream.send_audio(tone(4 * RATE_HZ), "ended")
            await one.stream.end_utterance()
            first = await one.session.interrupt(request_id="once")
            await one.stream.send_audio(tone(RATE_HZ // 2), "short")
            assert await one.session.interrupt(request_id="once") == first
            await one.stream.send_audio(tone(RATE_HZ // 2), "short")
            await one.stream.end_utterance()
            await one.until("UTTERANCE_FINISHED")
            await one.session.interrupt()
            await one.stream.send_audio(tone(RATE_HZ), "named next")
            await one.stream.send_audio(tone(RATE_HZ), "without an end")
            await one.stream.end()
        assert one.of("UTTERANCE_FINISHED") == ["short", "named next", "without an end"]

    asyncio.run(scenario())


def test_a_session_that_is_not_live_refuses_the_call_and_goes_on() -> None:
    async def scenario() -> None:
        options = SessionOptions(sample_rate_hz=RATE_HZ, video="h264")
        async with whole_system() as running, conversation(running, options) as one:
            await one.stream.send_audio(tone(RATE_HZ), "one")
            with pytest.raises(AvatarError, match="NOT_LIVE"):
                await one.session.interrupt()
            await one.stream.send_audio(tone(RATE_HZ), "one")
            await one.stream.end()
            with pytest.raises(AvatarError, match="STREAM_ENDED"):
                await one.stream.send_audio(tone(RATE_HZ), "one")
        assert one.of("UTTERANCE_FINISHED") == ["one"]

    asyncio.run(scenario())


async def speak_for_ever(one: Conversation) -> None:
    while True:
        await one.stream.send_audio(tone(RATE_HZ), "one")


def test_a_session_that_was_closed_by_call_says_so_on_its_stream() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            with pytest.raises(AvatarError, match="SESSION_CLOSED"):
                async with conversation(running) as one:
                    await one.stream.send_audio(tone(RATE_HZ), "one")
                    await one.session.close()
                    await asyncio.wait_for(speak_for_ever(one), 5)

    asyncio.run(scenario())
