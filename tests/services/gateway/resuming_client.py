"""A client that resumes its stream, and what it has received over all its streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import Gateway, Request, Response, Talk, video_format

CREDITS = 500


class Client:
    """A client that resumes: what it has got, and what it may have to send again."""

    def __init__(self, gateway: Gateway, token: str) -> None:
        self._gateway = gateway
        self._token = token
        self.talk: Talk | None = None
        self.handle = ""
        self.handles: list[str] = []
        self.sent: list[Request] = []
        self.units: list[Response.VideoUnit] = []
        self.speech = b""
        self.events: list[Response.Event] = []
        self.opened: list[Response.Opened] = []
        self.next_block = 0
        """The first block of which something may be missing."""
        self._whole = (0, 0)
        """Units and bytes of speech before that."""

    async def open(self, handle: str | None = None, next_block: int | None = None) -> None:
        self.talk = Talk(self._gateway.stub)
        opening = Request.Open(session_token=self._token, initial_video_credits=CREDITS, resumable=True)
        opening.resume_handle = self.handle if handle is None else handle
        opening.next_block_index = self.next_block if next_block is None else next_block
        self.units, self.speech = self.units[: self._whole[0]], self.speech[: self._whole[1]]
        await self.talk.write(Request(open=opening))
        response = await self.talk.receive()
        assert response.HasField("opened"), response
        self._take(response)
        for message in self.sent[response.opened.last_consumed_client_sequence :]:
            await self.talk.write(message)

    async def say(self, **payload: Any) -> None:
        self.sent.append(Request(client_sequence=len(self.sent) + 1, **payload))
        assert self.talk is not None
        await self.talk.write(self.sent[-1])

    async def speak(self, data: bytes, at: int = 0) -> None:
        await self.say(audio_chunk=Request.AudioChunk(data=data, sample_offset=at))

    def _take(self, response: Response) -> None:
        match response.WhichOneof("payload"):
            case "opened":
                self.opened.append(response.opened)
                self._note_handle(response.opened)
            case "resumption_update" if response.resumption_update.resumable:
                self._note_handle(response.resumption_update)
            case "video_unit":
                assert response.video_unit.block_index == self.next_block
                self.units.append(response.video_unit)
            case "audio_unit":
                self.speech += response.audio_unit.data
            case "event":
                self.events.append(response.event)

    def _note_handle(self, note: Response.Opened | Response.ResumptionUpdate) -> None:
        self.handle, self.next_block = note.resume_handle, note.next_block_index
        self._whole = (len(self.units), len(self.speech))
        self.handles.append(self.handle)

    async def take(self, until: Callable[["Client"], bool] = lambda client: False) -> None:
        """Receives until something holds, or to the end."""
        assert self.talk is not None
        while not until(self):
            try:
                response = await self.talk.receive()
            except EOFError:
                return
            self._take(response)
            update = response.resumption_update
            if response.HasField("resumption_update") and not update.resumable:
                await self.say(received=Request.Received(next_block_index=update.next_block_index))

    async def take_all(self) -> None:
        """Receives to the end of the session, over as many streams as that takes."""
        while True:
            try:
                return await self.take()
            except grpc.aio.AioRpcError:
                await self._open_again()

    async def _open_again(self) -> None:
        while True:
            try:
                return await self.open()
            except grpc.aio.AioRpcError:
                continue

    async def lose(self) -> None:
        """The line breaks."""
        assert self.talk is not None
        self.talk.cancel()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def client(
    gateway: Gateway, encoding: Any = VideoFormat.ENCODING_H264_ANNEXB, **config: Any
) -> AsyncIterator[Client]:
    created = await gateway.create(**{"delivery": api.DELIVERY_LIVE, "video": video_format(encoding)} | config)
    made = Client(gateway, created.session_token)
    try:
        yield made
    finally:
        if made.talk is not None:
            made.talk.cancel()


def has(block: int) -> Callable[[Client], bool]:
    """The client has everything before ``block``."""
    return lambda client: client.next_block >= block


def encoded(client: Client) -> bytes:
    """All video, as one file."""
    return b"".join(unit.data for unit in client.units)
