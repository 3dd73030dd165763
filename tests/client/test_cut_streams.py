"""Streams that a scripted server cuts at chosen messages: what the client sends again, and what it drops."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from live_avatar.client import (
    AvatarClient,
    AvatarError,
    AvatarStream,
    Event,
    Result,
    SessionOptions,
    StreamLost,
    StreamResumed,
    VideoUnit,
)
from live_avatar.client.outbox import Request
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceServicer, add_AvatarServiceServicer_to_server

Response = api.StreamAvatarResponse
Step = Response | int | grpc.StatusCode
OPTIONS = SessionOptions(sample_rate_hz=16_000, delivery="live")
STARTED = Response(event=Response.Event(kind=Response.Event.KIND_UTTERANCE_STARTED, utterance_id="one"))


def opened(handle: str, consumed: int = 0) -> Response:
    message = Response(opened=Response.Opened(resume_handle=handle, last_consumed_client_sequence=consumed))
    message.opened.negotiated_video.frames_per_second = 25
    return message


def unit(block: int) -> Response:
    return Response(
        video_unit=Response.VideoUnit(data=b"%d," % block, block_index=block, first_frame_index=block, frame_count=1)
    )


def handle_after(block: int, consumed: int = 0) -> Response:
    update = Response.ResumptionUpdate(
        resume_handle=f"after {block}",
        resumable=True,
        next_block_index=block + 1,
        last_consumed_client_sequence=consumed,
    )
    return Response(resumption_update=update)


def everything_sent(block: int) -> Response:
    return Response(resumption_update=Response.ResumptionUpdate(next_block_index=block + 1))


class ScriptedServer(AvatarServiceServicer):
    """Runs one script per stream: responses to send, counts of requests to wait for, and an end.

    A number waits until as many messages came in all its streams; a status code ends the stream with it.
    """

    def __init__(self, *scripts: list[Step]) -> None:
        self._scripts = list(scripts)
        self.openings: list[Request.Open] = []
        self.requests: list[list[Request]] = []

    async def StreamAvatar(self, requests: AsyncIterator[Request], context: Any) -> AsyncIterator[Response]:
        script, received = self._scripts.pop(0), list[Request]()
        self.openings.append((await anext(requests)).open)
        self.requests.append(received)
        for step in script:
            if isinstance(step, Response):
                yield step
            elif isinstance(step, int):
                while len(received) < step:
                    received.append(await anext(requests))
            else:
                await context.abort(step, "cut")

    async def CreateSession(self, request: api.CreateSessionRequest, context: Any) -> api.CreateSessionResponse:
        return api.CreateSessionResponse(session=api.Session(session_id="one"), session_token="a token")


def scripted(*scripts: list[Step]) -> ScriptedServer:
    """A server that serves streams and nothing else."""
    return ScriptedServer(*scripts)  # type: ignore[abstract]


@asynccontextmanager
async def serving(*servers: ScriptedServer) -> AsyncIterator[list[tuple[grpc.aio.Server, str]]]:
    """The servers with their addresses."""
    running = []
    for each in servers:
        server = grpc.aio.server()
        add_AvatarServiceServicer_to_server(each, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        running.append((server, address))
    try:
        yield running
    finally:
        for server, _ in running:
            await server.stop(0)


async def nothing(stream: AvatarStream) -> None:
    """Sends nothing."""


def results_of(
    server: ScriptedServer, send: Callable[[AvatarStream], Awaitable[None]] = nothing, *, resume: bool = True
) -> list[Result]:
    async def main() -> list[Result]:
        async with serving(server) as [(_, address)], AvatarClient(address) as client, asyncio.timeout(30):
            session = await client.create_session(b"an image", OPTIONS)
            async with session.stream(resume=resume) as stream:
                await send(stream)
                return [result async for result in stream]

    return asyncio.run(main())


def media(results: list[Result]) -> bytes:
    return b"".join(result.data for result in results if isinstance(result, VideoUnit))


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def test_units_and_events_that_come_again_are_dropped() -> None:
    server = scripted(
        [opened("first"), unit(0), handle_after(0), STARTED, unit(1), unit(2), UNAVAILABLE],
        [opened("after 0"), STARTED, unit(1), unit(2), handle_after(1), unit(3), everything_sent(3)],
    )
    results = results_of(server)
    assert [each.resume_handle for each in server.openings] == ["", "after 0"]
    assert all(each.resumable for each in server.openings)
    assert media(results) == b"0,1,2,3,"
    assert [type(result) for result in results].count(Event) == 1
    assert [type(result) for result in results if isinstance(result, StreamLost | StreamResumed)] == [
        StreamLost,
        StreamResumed,
    ]


def test_events_do_not_come_twice_after_attempts_that_failed() -> None:
    server = scripted(
        [opened("first"), unit(0), handle_after(0), STARTED, unit(1), UNAVAILABLE],
        [UNAVAILABLE],
        [opened("after 0"), UNAVAILABLE],
        [opened("after 0"), STARTED, unit(1), everything_sent(1)],
    )
    results = results_of(server)
    assert media(results) == b"0,1,"
    assert [type(result) for result in results].count(Event) == 1


def test_what_was_not_taken_is_sent_again_with_its_number() -> None:
    async def say(stream: AvatarStream) -> None:
        await stream.send_audio(b"1" * 32, "one")
        await stream.send_audio(b"2" * 32, "one")
        await stream.end()

    server = scripted(
        [opened("first"), 3, UNAVAILABLE],
        [opened("first", consumed=2), 2, unit(0), everything_sent(0)],
    )
    assert media(results_of(server, say)) == b"0,"
    first, second = server.requests
    assert [each.client_sequence for each in first] == [2, 3, 4]
    assert second == first[1:]


def test_a_line_that_breaks_after_the_last_message_loses_nothing() -> None:
    server = scripted([opened("first"), unit(0), everything_sent(0), UNAVAILABLE])
    results = results_of(server)
    assert media(results) == b"0,"
    assert len(server.openings) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION])
def test_a_refusal_ends_the_attempts(code: grpc.StatusCode) -> None:
    server = scripted([opened("first"), unit(0), UNAVAILABLE], [code])
    with pytest.raises(AvatarError, match="could not be resumed") as caught:
        results_of(server)
    assert caught.value.code is code
    assert len(server.openings) == 2


def test_a_stream_that_must_not_be_resumed_does_not_ask_for_it() -> None:
    server = scripted([opened(""), unit(0), UNAVAILABLE])
    with pytest.raises(AvatarError) as caught:
        results_of(server, resume=False)
    assert caught.value.code is UNAVAILABLE
    assert [each.resumable for each in server.openings] == [False]


def test_a_stream_goes_on_at_the_next_gateway_of_a_list() -> None:
    first = scripted([opened("first"), unit(0), handle_after(0), 1])
    second = scripted([opened("after 0"), unit(1), everything_sent(1)])

    async def main() -> list[Result]:
        async with (
            serving(first, second) as [(server, one), (_, two)],
            AvatarClient(f"{one},{two}") as client,
            asyncio.timeout(30),
        ):
            session = await client.create_session(b"an image", OPTIONS)
            async with session.stream() as stream:
                results = [await anext(stream)]
                await server.stop(0)
                return results + [result async for result in stream]

    results = asyncio.run(main())
    assert media(results) == b"0,1,"
    assert len(second.openings) == 1
    assert second.openings[0].resume_handle in ("first", "after 0")  # whether the newer one came before the end


def test_attempts_end_after_the_time_that_the_caller_sets() -> None:
    server = scripted([opened("first"), unit(0), UNAVAILABLE], *(list[Step]([UNAVAILABLE]) for _ in range(20)))

    async def main() -> None:
        async with serving(server) as [(_, address)], AvatarClient(address) as client, asyncio.timeout(30):
            session = await client.create_session(b"an image", OPTIONS)
            async with session.stream(resume_s=0.3) as stream:
                async for _ in stream:
                    pass

    with pytest.raises(AvatarError, match="could not be resumed"):
        asyncio.run(main())
    assert 2 < len(server.openings) < 12


def test_more_than_is_kept_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live_avatar.client.outbox.MAX_KEPT_BYTES", 10)

    async def say(stream: AvatarStream) -> None:
        await stream.send_audio(b"1" * 32, "one")

    server = scripted([opened("first"), 1, UNAVAILABLE])
    with pytest.raises(AvatarError, match="could not be resumed: the server had not taken"):
        results_of(server, say)
