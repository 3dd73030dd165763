"""The order of a stream's messages: utterances, interruptions by any door, and what waits for room."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from live_avatar.client.outbox import CREDITS_AT_ONCE, OUTBOX_SIZE, Outbox, OutboxClosedError, Request

PIECE = b"12345678"


def run(scenario: Callable[[Outbox], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await scenario(Outbox())

    asyncio.run(main())


async def say(outbox: Outbox, pieces: int, name: str = "") -> None:
    """Four samples a piece."""
    await outbox.speak(PIECE * pieces, len(PIECE), 2, name)


async def written(outbox: Outbox) -> list[str]:
    """Everything that waits, each message as one word and its numbers."""
    words = []
    await outbox.put(Request(open=Request.Open()))
    while (request := await outbox.next()).WhichOneof("payload") != "open":
        word = str(request.WhichOneof("payload"))
        if word == "audio_chunk":
            word = f"{request.audio_chunk.utterance_id}@{request.audio_chunk.sample_offset}"
        words.append(word)
    return words


INTERRUPT = Request(interrupt=Request.Interrupt())


def test_an_utterance_counts_its_samples() -> None:
    async def scenario(outbox: Outbox) -> None:
        await say(outbox, 2, "one")
        await say(outbox, 1)
        await outbox.end_utterance()
        await say(outbox, 1, "one")
        assert await written(outbox) == ["one@0", "one@4", "@8", "end_of_utterance", "one@0"]

    run(scenario)


@pytest.mark.parametrize("before", ["one", ""])
def test_a_new_name_ends_the_running_utterance(before: str) -> None:
    async def scenario(outbox: Outbox) -> None:
        await say(outbox, 1, before)
        await say(outbox, 1, "two")
        assert await written(outbox) == [f"{before}@0", "end_of_utterance", "two@0"]

    run(scenario)


@pytest.mark.parametrize("names", [("one", "two"), ("", ""), ("one", "one"), ("one", ""), ("", "two")])
@pytest.mark.parametrize("sent", [0, 1, 3])
def test_what_follows_an_interruption_begins_anew(names: tuple[str, str], sent: int) -> None:
    """Whatever of the interrupted utterance has been written."""

    async def scenario(outbox: Outbox) -> None:
        await say(outbox, 3, names[0])
        for _ in range(sent):
            await outbox.next()
        await outbox.interrupt(INTERRUPT)
        await say(outbox, 2, names[1])
        assert await written(outbox) == ["interrupt", f"{names[1]}@0", f"{names[1]}@4"]

    run(scenario)


def test_speech_that_waits_for_room_is_interrupted_too() -> None:
    async def scenario(outbox: Outbox) -> None:
        blocked = asyncio.create_task(say(outbox, 3 * OUTBOX_SIZE, "one"))
        behind = asyncio.create_task(say(outbox, 3, "one"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not blocked.done()
        await outbox.interrupt(INTERRUPT)
        await say(outbox, 2, "two")
        await asyncio.gather(blocked, behind)
        assert await written(outbox) == ["interrupt", "two@0", "two@4"]

    run(scenario)


def test_interruptions_in_a_row_and_between_utterances() -> None:
    async def scenario(outbox: Outbox) -> None:
        await outbox.interrupt(INTERRUPT)
        await outbox.interrupt(INTERRUPT)
        await say(outbox, 1, "one")
        await outbox.end_utterance()
        await outbox.interrupt(INTERRUPT)
        await outbox.end_utterance()
        await say(outbox, 1, "two")
        assert await written(outbox) == ["interrupt"] * 3 + ["end_of_utterance", "two@0"]

    run(scenario)


def test_somebody_elses_interruption_ends_what_the_server_had_begun_to_take() -> None:
    async def scenario(outbox: Outbox) -> None:
        await say(outbox, 3, "one")
        first = await outbox.next()
        await outbox.note_interruption(first.client_sequence)
        await say(outbox, 1, "one")
        assert await written(outbox) == ["one@0"]

    run(scenario)


@pytest.mark.parametrize("is_written", [False, True])
def test_somebody_elses_interruption_leaves_what_began_after_it(is_written: bool) -> None:
    """The same rule keeps the report of our own interruption from cutting the utterance that followed it."""

    async def scenario(outbox: Outbox) -> None:
        await say(outbox, 1, "one")
        first = await outbox.next()
        await outbox.end_utterance()
        await say(outbox, 1, "two")
        began = [await outbox.next(), await outbox.next()] if is_written else []
        await outbox.note_interruption(first.client_sequence)
        await say(outbox, 1, "two")
        left = await written(outbox)
        assert len(began) == 2 * is_written
        assert left == (["two@4"] if is_written else ["two@0", "two@4"])

    run(scenario)


def test_an_interruption_that_dropped_nothing_changes_nothing() -> None:
    async def scenario(outbox: Outbox) -> None:
        await say(outbox, 1, "one")
        await outbox.next()
        await outbox.note_interruption(0)
        await say(outbox, 1, "one")
        assert await written(outbox) == ["one@4"]

    run(scenario)


def test_credits_go_first_and_together() -> None:
    async def scenario(outbox: Outbox) -> None:
        await say(outbox, 1)
        for _ in range(CREDITS_AT_ONCE):
            await outbox.grant()
        assert (await outbox.next()).credit.video_units == CREDITS_AT_ONCE
        assert (await outbox.next()).client_sequence == 2

    run(scenario)


def test_whoever_waits_learns_that_nothing_is_written_any_more() -> None:
    async def scenario(outbox: Outbox) -> None:
        blocked = asyncio.create_task(say(outbox, 2 * OUTBOX_SIZE))
        await asyncio.sleep(0)
        await outbox.close()
        with pytest.raises(OutboxClosedError):
            await blocked
        with pytest.raises(OutboxClosedError):
            await outbox.interrupt(INTERRUPT)

    run(scenario)


def test_a_receipt_goes_before_speech_that_waits() -> None:
    async def scenario(outbox: Outbox) -> None:
        await say(outbox, 3)
        await outbox.acknowledge(5)
        await outbox.acknowledge(9)
        first = await outbox.next()
        assert first.received.next_block_index == 9
        assert await written(outbox) == ["@0", "@4", "@8"]

    run(scenario)


def test_an_outbox_with_a_gap_is_whole_only_once_the_gap_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live_avatar.client.outbox.MAX_KEPT_BYTES", 30)

    async def scenario(outbox: Outbox) -> None:
        outbox.keep()
        await say(outbox, 6)
        last = [(await outbox.next()).client_sequence for _ in range(6)][-1]
        assert not outbox.is_whole
        outbox.forget(last - 1)
        assert not outbox.is_whole, "the last message is not kept"
        outbox.forget(last)
        assert outbox.is_whole

    run(scenario)
