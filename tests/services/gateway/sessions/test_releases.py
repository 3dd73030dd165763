"""A gateway that is asked to end gives its sessions up between two blocks, and another one goes on with them."""

import asyncio
import signal
import time

import grpc
import pytest

from live_avatar.serving.errors import from_rpc_error, from_status
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import Request, Response, video_format
from tests.services.gateway.resuming_client import has
from tests.services.gateway.sessions.test_takeover import (
    SPEECH,
    Listener,
    Place,
    begun,
    check_whole,
    place,
    resumed,
)

pytestmark = pytest.mark.alone

SOON_S = 20.0


async def ended(one: Listener) -> tuple[list[Response.GoAway], grpc.aio.AioRpcError]:
    """What announced the end of a stream, and the end."""
    assert one.talk is not None
    announced = []
    try:
        while True:
            response = await one.talk.receive()
            one._take(response)
            if response.HasField("go_away"):
                announced.append(response.go_away)
    except grpc.aio.AioRpcError as error:
        return announced, error


async def gone(at: Place, number: int) -> None:
    assert await asyncio.to_thread(at.processes[number].wait, SOON_S) == 0


@pytest.mark.parametrize("encoding", [VideoFormat.ENCODING_FMP4, VideoFormat.ENCODING_H264_ANNEXB])
def test_a_stream_ends_between_two_blocks_and_goes_on_elsewhere(redis_server: str, encoding: int) -> None:
    async def scenario() -> None:
        async with place(redis_server, "--server.drain-seconds", "30") as at:
            one = await begun(at, encoding)
            await one.take(has(3))
            at.end(0, signal.SIGTERM)
            began = time.monotonic()
            announced, error = await ended(one)
            end = from_rpc_error(error)
            assert (end.code, end.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert [(notice.reason, notice.resumable) for notice in announced] == [("DRAINING", True)]
            await resumed(one, at.gateways[1])
            assert time.monotonic() - began < SOON_S, "the lease was waited for"
            await gone(at, 0)
            await one.take()
            check_whole(one, encoding)
            (event,) = [event for event in one.events if event.kind == event.KIND_DISCONTINUITY]
            assert from_status(event.warning).reason == "GATEWAY_LOST"
            await at.gateways[1].freed()

    asyncio.run(scenario())


def test_sessions_without_a_stream_are_given_up_at_once(redis_server: str) -> None:
    async def scenario() -> None:
        async with place(redis_server, "--server.drain-seconds", "30") as at:
            detached = await begun(at, VideoFormat.ENCODING_H264_ANNEXB)
            await detached.take(has(2))
            await detached.lose()
            form = video_format(VideoFormat.ENCODING_H264_ANNEXB)
            created = await at.gateways[0].create(delivery=api.DELIVERY_LIVE, video=form)
            await asyncio.sleep(0.5)
            at.end(0, signal.SIGTERM)
            await gone(at, 0)
            unopened = Listener(at.gateways[1], created.session_token)
            await resumed(unopened, at.gateways[1])
            await unopened.speak(SPEECH)
            await unopened.say(finish=Request.Finish())
            await resumed(detached, at.gateways[1])
            for one in (unopened, detached):
                await one.take()
                check_whole(one, VideoFormat.ENCODING_H264_ANNEXB)

    asyncio.run(scenario())
