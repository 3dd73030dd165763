"""A live conversation: speech and barge-ins up, video down, and a player's clock that reports its position.

Knows order and times; nothing of files, windows or loudspeakers.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

import grpc

from live_avatar.client.client import Session
from live_avatar.client.errors import AvatarError
from live_avatar.client.player import PlayerClock
from live_avatar.client.results import Result, VideoUnit
from live_avatar.client.stream import AvatarStream

REPORT_S = 0.2


class LiveStream:
    """An open live stream; iterate over it for results.  ``live_stream`` makes it.

    Playback is reported by itself, as of ``clock``, which plays each picture in its time.
    """

    def __init__(self, stream: AvatarStream) -> None:
        if not stream.frames_per_second:
            raise AvatarError(grpc.StatusCode.INTERNAL, "PROTOCOL", "the server reported no frame rate")
        self._stream = stream
        self._first_ns: int | None = None
        self.clock = PlayerClock(stream.frames_per_second)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        """The next result; raises AvatarError where the session failed."""
        result = await anext(self._stream)
        if isinstance(result, VideoUnit) and result.frame_count:
            if self._first_ns is None:
                self._first_ns = result.start_ns
            self.clock.receive(result.first_frame + result.frame_count, time.monotonic())
        return result

    async def send_audio(self, chunk: bytes, utterance_id: str = "") -> None:
        """Sends speech of any length as it comes; raises AvatarError where the stream has ended."""
        await self._stream.send_audio(chunk, utterance_id)

    async def end_utterance(self) -> None:
        """Says that the utterance is complete; the avatar finishes it and then idles."""
        await self._stream.end_utterance()

    async def interrupt(self) -> None:
        """Barge-in: what was sent and has not entered the pipeline is not spoken.

        The event UTTERANCE_INTERRUPTED answers: how far the viewer had come, and the first block that is free of it.
        """
        await self.report()
        await self._stream.interrupt()

    async def change_prompt(self, prompt: str) -> None:
        """The video follows a new prompt; the event UPDATE_APPLIED says from which block on."""
        await self._stream.change_prompt(prompt)

    async def end(self) -> None:
        """Says that nothing follows; the stream ends after what was sent has been spoken."""
        await self._stream.end()

    async def report(self) -> None:
        """Tells the server where the player is; nothing before the first picture."""
        if self._first_ns is None:
            return
        frames = self.clock.position(time.monotonic())
        await self._stream.report_playback(self._first_ns + frames * 1_000_000_000 // self._stream.frames_per_second)

    async def report_for_ever(self) -> None:
        """``report`` every now and then, until cancelled or the stream has ended."""
        with suppress(AvatarError):
            while True:
                await asyncio.sleep(REPORT_S)
                await self.report()


@asynccontextmanager
async def live_stream(session: Session, *, resume: bool = True) -> AsyncIterator[LiveStream]:
    """Opens the stream of a session that was created with ``delivery="live"``; on exit the call is over.

    Args:
        session: of a gateway.
        resume: see ``Session.stream``.
    """
    async with session.stream(resume=resume) as stream:
        live = LiveStream(stream)
        reporting = asyncio.create_task(live.report_for_ever())
        try:
            yield live
        finally:
            reporting.cancel()
            await asyncio.wait({reporting})
