"""A server that ends the call while its client still writes."""

import asyncio
from collections.abc import Iterator

import grpc

from live_avatar.client import AvatarClient, AvatarError, Session, SessionOptions, VideoUnit
from live_avatar.client.stream import AvatarStream
from live_avatar.late_writes import keep_last_word

from .fake_gateway import FakeGateway, Requests, Response, fake_gateway, rich_status, serving

TRIES = 40


async def flood(opened: AvatarStream) -> AvatarError:
    """Sends without a pause; what that ends with."""
    try:
        while True:
            await opened.send_audio(bytes(2_000))
    except AvatarError as error:
        return error


async def drain(opened: AvatarStream) -> tuple[int, str]:
    """How many results came, and the reason for the end."""
    count = 0
    try:
        async for result in opened:
            count += isinstance(result, VideoUnit)
    except AvatarError as error:
        return count, error.reason
    return count, ""


async def ends(session: Session) -> tuple[int, str, str]:
    """How many results came, and the reason that reader and writer were told."""
    async with session.stream() as opened:
        (count, read), written = await asyncio.gather(drain(opened), flood(opened))
        return count, read, written.reason


def test_nothing_that_the_server_sent_is_lost() -> None:
    units = 20

    def deliver(self: FakeGateway, requests: Requests) -> Iterator[Response]:
        for _ in range(units):
            yield Response(video_unit=Response.VideoUnit(data=bytes(2_000)))

    gateway = fake_gateway()
    gateway.deliver = deliver

    async def main() -> None:
        with serving(gateway) as address:
            async with AvatarClient(address) as client:
                session = await client.create_session(b"an image", SessionOptions(sample_rate_hz=16_000))
                gateway.refusal = rich_status(grpc.StatusCode.UNAVAILABLE, "STAGE_LOST")
                assert {await ends(session) for _ in range(TRIES)} == {(units, "STAGE_LOST", "STAGE_LOST")}

    asyncio.run(main())


def test_a_call_without_the_fault_is_left_alone() -> None:
    class Mended:
        _cython_call = object()

    call = Mended()
    before = call._cython_call
    keep_last_word(call)
    assert call._cython_call is before
