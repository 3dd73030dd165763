"""Streams that break and are resumed on the gateway that holds the session, with every reason to refuse that."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.services.gateway.limits import Limits
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import Gateway, Request, Talk, tone, whole_system
from tests.services.gateway.resuming_client import Client, client, encoded, has

Code = grpc.StatusCode
BLOCK = SAMPLE_RATE_HZ * 12 // 25
SPEECH = tone(8 * BLOCK)


def run(scenario: Callable[[Gateway], Any], **settings: Any) -> None:
    async def whole() -> None:
        async with (
            whole_system(settings={"limits": Limits(**settings)} if settings else None) as gateway,
            asyncio.timeout(60),
        ):
            await scenario(gateway)

    asyncio.run(whole())


@pytest.mark.parametrize("encoding", [VideoFormat.ENCODING_FMP4, VideoFormat.ENCODING_H264_ANNEXB])
def test_a_resumed_stream_goes_on_without_a_gap(encoding: int) -> None:
    """Cut after every block; the units are those of a stream that was never cut."""

    async def scenario(gateway: Gateway) -> None:
        # Offline: what a live block holds depends on when it is due.
        offline = {"delivery": api.DELIVERY_OFFLINE, "listening": api.LISTENING_STREAMING}
        async with client(gateway, encoding, **offline) as cut, client(gateway, encoding, **offline) as whole:
            for one in (cut, whole):
                await one.open()
                await one.speak(SPEECH)
                await one.say(finish=Request.Finish())
            await whole.take()
            for block in range(1, 6):
                await cut.take(has(block))
                await cut.lose()
                await cut.open()
            await cut.take()
            assert len(cut.opened) == 6
            assert [unit.block_index for unit in cut.units] == [unit.block_index for unit in whole.units]
            assert [unit.first_frame_index for unit in cut.units] == [unit.first_frame_index for unit in whole.units]
            assert cut.speech == whole.speech
            assert encoded(cut) == encoded(whole)

    run(scenario)


def test_blocks_that_were_lost_on_the_way_are_sent_again() -> None:
    async def scenario(gateway: Gateway) -> None:
        async with client(gateway) as one:
            await one.open()
            await one.speak(SPEECH)
            await one.take(has(3))
            first, lost = one.handles[0], one.units[1:]
            await one.lose()
            one._whole = (1, 0)
            await one.open(handle=first, next_block=1)
            assert one.opened[-1].next_block_index == 1
            await one.take(has(3))
            assert [unit.data for unit in one.units[1:3]] == [unit.data for unit in lost[:2]]

    run(scenario)


def test_speech_that_was_lost_on_the_way_is_sent_again() -> None:
    async def scenario(gateway: Gateway) -> None:
        async with client(gateway) as one:
            await one.open()
            await one.speak(SPEECH[:BLOCK])
            await one.take(has(1))
            await one.lose()
            one.sent.append(
                Request(
                    client_sequence=len(one.sent) + 1,
                    audio_chunk=Request.AudioChunk(data=SPEECH[BLOCK:], sample_offset=BLOCK // 2),
                )
            )
            await one.open()
            await one.say(finish=Request.Finish())
            await one.take()
            assert SPEECH in one.speech

    run(scenario)


async def refused(client: Client, **opening: Any) -> tuple[Code, str]:
    talk = Talk(client._gateway.stub)
    async with talk:
        await talk.write(Request(open=Request.Open(session_token=client._token, resumable=True, **opening)))
        error = await talk.failure()
        return error.code, error.reason


def test_handles_that_are_not_right_change_nothing() -> None:
    async def scenario(gateway: Gateway) -> None:
        async with client(gateway) as one, client(gateway) as other:
            await one.open()
            await other.open()
            await one.speak(SPEECH)
            await one.take(has(2))
            first, foreign = one.handle, other.handle
            await one.lose()
            await one.open()
            await one.say(credit=Request.Credit(video_units=0))
            await one.take(has(4))
            forged = one.handle[:-1] + ("A" if one.handle[-1] != "A" else "B")
            precondition = Code.FAILED_PRECONDITION
            assert await refused(one, resume_handle=forged) == (Code.UNAUTHENTICATED, "HANDLE_INVALID")
            assert await refused(one, resume_handle="x" * 100) == (Code.UNAUTHENTICATED, "HANDLE_INVALID")
            assert await refused(one, resume_handle=foreign) == (precondition, "HANDLE_FOREIGN")
            assert await refused(one, resume_handle=first) == (precondition, "HANDLE_USED")
            assert await refused(one) == (precondition, "HANDLE_USED")
            future = {"resume_handle": one.handle, "next_block_index": 99}
            assert await refused(one, **future) == (Code.INVALID_ARGUMENT, "BLOCK_OUT_OF_RANGE")
            await one.say(finish=Request.Finish())
            await one.take()
            assert SPEECH in one.speech

    run(scenario)


def test_a_handle_from_before_what_is_kept_is_expired() -> None:
    async def scenario(gateway: Gateway) -> None:
        async with client(gateway) as one:
            await one.open()
            await one.speak(SPEECH)
            await one.take(has(4))
            assert await refused(one, resume_handle=one.handles[0]) == (Code.FAILED_PRECONDITION, "HANDLE_EXPIRED")

    run(scenario, max_replay_blocks=2)


def test_a_newer_stream_takes_the_place_of_one_that_still_runs() -> None:
    async def scenario(gateway: Gateway) -> None:
        async with client(gateway) as one:
            await one.open()
            await one.speak(SPEECH)
            await one.take(has(1))
            old = one.talk
            assert old is not None
            await one.open()
            error = await old.failure()
            assert (error.code, error.reason) == (Code.ABORTED, "STREAM_REPLACED")
            await one.say(finish=Request.Finish())
            await one.take()
            assert SPEECH in one.speech

    run(scenario)


async def state(gateway: Gateway, session_id: str) -> api.Session:
    return (await gateway.stub.GetSession(api.GetSessionRequest(session_id=session_id))).session


async def until_state(gateway: Gateway, session_id: str, wanted: int) -> api.Session:
    while (found := await state(gateway, session_id)).state != wanted:  # noqa: ASYNC110 - a client would ask so too
        await asyncio.sleep(0.02)
    return found


def test_a_session_waits_for_its_client_and_then_ends() -> None:
    async def scenario(gateway: Gateway) -> None:
        async with client(gateway) as one:
            await one.open()
            session_id = one.opened[0].session.session_id
            await one.lose()
            await until_state(gateway, session_id, api.Session.STATE_SUSPENDED)
            await one.open()
            await until_state(gateway, session_id, api.Session.STATE_ACTIVE)
            await one.lose()
            ended = await until_state(gateway, session_id, api.Session.STATE_FAILED)
            assert ended.end_reason == "CLIENT_GONE"
            await gateway.freed()

    run(scenario, resume_seconds=1.5)


def test_a_session_whose_client_cannot_resume_ends_with_its_stream() -> None:
    async def scenario(gateway: Gateway) -> None:
        created = await gateway.create(delivery=api.DELIVERY_LIVE)
        async with Talk(gateway.stub) as talk:
            opened = await talk.open(created.session_token)
            assert not opened.opened.resume_handle
            talk.cancel()
        ended = await until_state(gateway, created.session.session_id, api.Session.STATE_FAILED)
        assert ended.end_reason == "CLIENT_GONE"

    run(scenario)
