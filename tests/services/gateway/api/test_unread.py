"""How much finished video waits for a live client that does not read."""

import asyncio

import grpc
import pytest

from live_avatar.config import TINY
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.proxies import DIRECT
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.sessions.line import Line
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import SMALL_WINDOWS, Gateway, Talk, video_format, whole_system

pytestmark = pytest.mark.alone

BLOCK_BYTES = TINY.frames_per_block * TINY.max_area * 3


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of pictures that sessions hold after each message from the decoder."""
    sizes: list[int] = []
    receive = Session.receive_video

    def watch(session: Session, line: Line, video: StreamVideoResponse.Video) -> None:
        receive(session, line, video)
        sizes.append(session.ledger.held_bytes)

    monkeypatch.setattr(Session, "receive_video", watch)
    return sizes


async def deaf_for(running: Gateway) -> ServiceError:
    """Opens a stream of raw pictures on a connection of its own and reads nothing; says how it ended."""
    form = video_format(VideoFormat.ENCODING_RAW_RGB24)
    made = await running.create(delivery=api.DELIVERY_LIVE, video=form)
    async with (
        grpc.aio.insecure_channel(running.target, options=(*DIRECT, *SMALL_WINDOWS)) as channel,
        Talk(AvatarServiceStub(channel)) as deaf,
        asyncio.timeout(20),
    ):
        await deaf.open(made.session_token)
        while (await running.info()).sessions_open:  # noqa: ASYNC110 - as from another process
            await asyncio.sleep(0.05)
        return await deaf.failure()


@pytest.mark.parametrize("most", [BLOCK_BYTES * 4 // 3, BLOCK_BYTES * 2 // 3])
def test_no_more_waits_than_is_promised(held: list[int], monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Two blocks are more than the larger limit, one block is more than the smaller one, which is allowed."""
    monkeypatch.setattr(Limits, "max_unread_bytes", most)

    async def scenario() -> ServiceError:
        # What waits is counted long before the time of a client that does not read is over.
        limits = Limits(live_slow_consumer_seconds=30)
        async with whole_system(settings={"limits": limits}) as running:
            return await deaf_for(running)

    error = asyncio.run(scenario())
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")
    assert "of video wait" in error.message
    assert BLOCK_BYTES * 3 // 4 <= max(held) <= max(most, BLOCK_BYTES)
