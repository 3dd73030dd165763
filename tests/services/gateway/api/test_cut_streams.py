"""Streams that break at any message: whatever was received by then, what follows is byte for byte what was due."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.services.gateway.api.stream import Stream
from live_avatar.services.gateway.sessions.replay import ReplayLog
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import Gateway, Request, Response, is_movie, levels, tone, whole_system
from tests.services.gateway.resuming_client import Client, client, encoded, has

BLOCK = SAMPLE_RATE_HZ * 12 // 25
SPEECH = tone(5 * BLOCK)
FINISHED = Response.Event.KIND_UTTERANCE_FINISHED
Cuts = Callable[[Response], bool]


@contextmanager
def breaking(before: Cuts, after: Cuts) -> Iterator[None]:
    """Lines break at the messages that ``before`` or ``after`` choose, before or after they are written."""
    respond = Stream._respond

    async def broken(stream: Stream, response: Response) -> None:
        if before(response):
            raise gone()
        await respond(stream, response)
        if after(response):
            raise gone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "_respond", broken)
        yield


def gone() -> ServiceError:
    return ServiceError(grpc.StatusCode.CANCELLED, "CLIENT_GONE", "the line breaks")


def never(response: Response) -> bool:
    return False


class Sometimes:
    """Chooses messages at random, until it has chosen enough of them."""

    def __init__(self, seed: int, cuts: int) -> None:
        self._random = random.Random(seed)
        self.left = cuts

    def __call__(self, response: Response) -> bool:
        chosen = self.left > 0 and self._random.random() < 0.15
        self.left -= chosen
        return chosen


async def begin(one: Client) -> None:
    await one.open()
    await one.speak(SPEECH)
    await one.say(finish=Request.Finish())


@contextmanager
def rendered() -> Iterator[list[Response]]:
    """All messages of blocks, in the order in which the gateway makes them."""
    made: list[Response] = []
    append = ReplayLog.append

    def noted(log: ReplayLog, message: Response) -> None:
        made.append(Response.FromString(message.SerializeToString()))
        append(log, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReplayLog, "append", noted)
        yield made


def check_whole(cut: Client, made: list[Response]) -> None:
    """The client has everything that was made for it, once and in order."""
    assert cut.units == [message.video_unit for message in made if message.HasField("video_unit")]
    assert cut.speech == b"".join(message.audio_unit.data for message in made)


def run(scenario: Callable[[Gateway], Any]) -> None:
    async def main() -> None:
        async with whole_system() as gateway, asyncio.timeout(90):
            await scenario(gateway)
            await gateway.freed()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("encoding", [VideoFormat.ENCODING_FMP4, VideoFormat.ENCODING_H264_ANNEXB])
def test_a_stream_that_breaks_anywhere_goes_on_with_what_was_due(encoding: int, seed: int) -> None:
    async def scenario(gateway: Gateway) -> None:
        with rendered() as made:
            async with client(gateway, encoding) as cut:
                await begin(cut)
                await cut.take(has(1))
                with breaking(Sometimes(seed, 6), Sometimes(seed + 100, 6)):
                    await cut.take_all()
        assert len(cut.opened) > 1
        check_whole(cut, made)
        if encoding == VideoFormat.ENCODING_FMP4:
            frames = sum(unit.frame_count for unit in cut.units)
            assert is_movie(levels(encoded(cut), "mp4"), frames)
        else:
            assert SPEECH in cut.speech

    run(scenario)


@pytest.mark.parametrize("is_written", [False, True])
def test_a_stream_that_breaks_at_an_event_after_a_block_counts_its_blocks_on(is_written: bool) -> None:
    """The event of an utterance's end comes after the last block with its speech."""

    async def scenario(gateway: Gateway) -> None:
        async with client(gateway) as cut:
            await cut.open()
            await cut.speak(SPEECH[: 2 * BLOCK])
            await cut.say(end_of_utterance=Request.EndOfUtterance())
            await cut.take(has(1))
            cuts = [True]

            def once(response: Response) -> bool:
                return response.event.kind == FINISHED and bool(cuts) and cuts.pop()

            with breaking(never if is_written else once, once if is_written else never):
                with pytest.raises(grpc.aio.AioRpcError):
                    await cut.take(has(6))
                await cut.open()
                await cut.take(has(6))
            assert not cuts
            assert any(event.kind == FINISHED for event in cut.events)
            await cut.say(finish=Request.Finish())
            await cut.take()
            assert [unit.block_index for unit in cut.units] == list(range(len(cut.units)))

    run(scenario)


@pytest.mark.parametrize("listening", [api.LISTENING_STREAMING, api.LISTENING_WHOLE_FILE])
def test_a_recording_whose_stream_breaks_is_generated_to_its_end(listening: int) -> None:
    async def scenario(gateway: Gateway) -> None:
        with rendered() as made:
            async with client(gateway, delivery=api.DELIVERY_OFFLINE, listening=listening) as cut:
                await begin(cut)
                with breaking(Sometimes(3, 4), Sometimes(4, 4)):
                    await cut.take_all()
        assert len(cut.opened) > 1
        check_whole(cut, made)
        assert cut.speech == SPEECH

    run(scenario)
