"""A viewer of a live session: hears everything, plays at the frame rate, and reports where it is."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from live_avatar.config import TINY
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.services.gateway.clients import Gateway, Request, Response, Talk, video_format

FPS = TINY.stream.fps
DROPPED = TINY.stream.dropped_frames
Event = Response.Event
REPORT_S = 0.2
CREDITS = 500
"""Less than the limit: every unit gives one back, the last of a film too, which costs none."""


class Viewer:
    """Everything a live session said, with the times at which it came."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.received: list[tuple[float, Response]] = []
        self.frames = 0
        self.stalls = 0
        self.ended = asyncio.Event()
        self.failure: grpc.aio.AioRpcError | None = None
        self._anchor: tuple[float, float] | None = None
        self._saying = asyncio.Lock()

    async def listen(self) -> None:
        try:
            while True:
                await self._take(await self.talk.receive())
        except EOFError:
            pass
        except grpc.aio.AioRpcError as error:
            self.failure = error
        finally:
            self.ended.set()

    async def _take(self, response: Response) -> None:
        now = time.monotonic()
        self.received.append((now, response))
        if response.HasField("video_unit"):
            if self._anchor is None or self.dry():
                self.stalls += self._anchor is not None
                self._anchor = (now, self.frames)
            self.frames += response.video_unit.frame_count
            await self.say(credit=Request.Credit(video_units=1))

    def position(self) -> float:
        """Frames played."""
        if self._anchor is None:
            return 0
        at, frame = self._anchor
        return min(frame + (time.monotonic() - at) * FPS, self.frames)

    def dry(self) -> bool:
        """Whether everything that came is played, and the picture stands still."""
        return self.position() >= self.frames

    async def report(self) -> None:
        played = Request.PlaybackReport()
        frames = int(self.position()) + DROPPED if self._anchor else 0
        played.played_through_time.FromMilliseconds(frames * 1000 // FPS)
        await self.say(playback_report=played)

    async def report_all(self) -> None:
        while not self.ended.is_set():
            await asyncio.sleep(REPORT_S)
            await self.report()

    async def say(self, **payload: Any) -> None:
        async with self._saying:
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await self.talk.say(**payload)

    async def speak(self, data: bytes, utterance: str = "") -> None:
        async with self._saying:
            await self.talk.speak(data, utterance=utterance)

    async def end_utterance(self, utterance: str = "") -> None:
        async with self._saying:
            await self.talk.end_utterance(utterance)

    def units(self) -> list[Response.VideoUnit]:
        return [one.video_unit for _, one in self.received if one.HasField("video_unit")]

    def events(self) -> list[Event]:
        return [one.event for _, one in self.received if one.HasField("event")]

    def spoken(self) -> bytes:
        return b"".join(one.audio_unit.data for _, one in self.received if one.HasField("audio_unit"))

    async def until_event(self, kind: int, count: int = 1, timeout_s: float = 30) -> Event:
        """The newest event of a kind, once there are so many."""
        async with asyncio.timeout(timeout_s):
            while len(found := [one for one in self.events() if one.kind == kind]) < count:
                assert not self.ended.is_set(), f"the stream ended: {self.failure}"
                await asyncio.sleep(0.005)
        return found[-1]

    async def until_block(self, block: int, timeout_s: float = 30) -> None:
        async with asyncio.timeout(timeout_s):
            while not any(unit.block_index >= block for unit in self.units()):
                assert not self.ended.is_set(), f"the stream ended: {self.failure}"
                await asyncio.sleep(0.005)

    async def finish(self, timeout_s: float = 40) -> None:
        await self.say(finish=Request.Finish())
        async with asyncio.timeout(timeout_s):
            await self.ended.wait()
        assert self.failure is None, self.failure


@asynccontextmanager
async def viewer(running: Gateway, *, reports: bool = True, **config: Any) -> AsyncIterator[Viewer]:
    """A live session and its viewer; access units unless told otherwise."""
    config = {"video": video_format(VideoFormat.ENCODING_H264_ANNEXB), "delivery": api.DELIVERY_LIVE} | config
    made = await running.create(**config)
    async with Talk(running.stub) as talk:
        await talk.open(made.session_token, credits=CREDITS)
        one = Viewer(talk)
        tasks = [asyncio.create_task(one.listen())]
        if reports:
            tasks.append(asyncio.create_task(one.report_all()))
        try:
            yield one
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
