"""A live session in which speech follows silence again and again; how long the avatar takes to react.

Uses the client library alone.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field

from benchmarks.sessions import speech
from live_avatar.client import AvatarClient, SessionOptions, VideoUnit
from live_avatar.client.live import LiveStream, live_stream
from live_avatar.config import SAMPLE_RATE_HZ, Preset

_IDLE_BLOCKS = 2
"""Blocks of silence that come before speech follows, at least."""
_SPEECH_BLOCKS = 1.5
_TIMEOUT_S = 30.0


@dataclass
class _Watched:
    """What came so far."""

    idle_blocks: int = 0
    """In a row."""
    spoken_at: float | None = None
    """Arrival of the first block with speech since it was last forgotten."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def silence(self) -> None:
        """Returns once the avatar has idled for a while, and forgets the speech before."""
        async with asyncio.timeout(_TIMEOUT_S), self.changed:
            await self.changed.wait_for(lambda: self.idle_blocks >= _IDLE_BLOCKS)
            self.spoken_at = None

    async def speech(self) -> float:
        """When the first block with speech came."""
        async with asyncio.timeout(_TIMEOUT_S), self.changed:
            while (spoken_at := self.spoken_at) is None:
                await self.changed.wait()
            return spoken_at

    async def add(self, unit: VideoUnit) -> None:
        """Takes note of a unit that has just come."""
        now = time.monotonic()
        async with self.changed:
            if unit.idle:
                self.idle_blocks += 1
            else:
                self.idle_blocks = 0
                self.spoken_at = now if self.spoken_at is None else self.spoken_at
            self.changed.notify_all()


async def reactions(client: AvatarClient, image: bytes, preset: Preset, switches: int) -> list[float]:
    """Seconds from the sending of speech into silence to the arrival of the first block that carries it.

    Raises:
        AvatarError: the session failed.
        TimeoutError: nothing came of the speech, or the avatar did not fall silent.
    """
    options = SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ, video="h264", delivery="live")
    session = await client.create_session(image, options)
    try:
        async with live_stream(session) as live:
            watched = _Watched()
            watching = asyncio.create_task(_watch(live, watched))
            try:
                return [await _switch(live, watched, preset, number) for number in range(switches)]
            finally:
                watching.cancel()
                await asyncio.wait({watching})
    finally:
        await session.close()


async def _switch(live: LiveStream, watched: _Watched, preset: Preset, number: int) -> float:
    block_s = preset.frames_per_block / preset.stream.fps
    await watched.silence()
    # Speech knows nothing of blocks: it comes at any moment of one.
    await asyncio.sleep(random.Random(number).uniform(0, block_s))
    sent_at = time.monotonic()
    await live.send_audio(speech(_SPEECH_BLOCKS * block_s))
    await live.end_utterance()
    return await watched.speech() - sent_at


async def _watch(live: LiveStream, watched: _Watched) -> None:
    async for result in live:
        if isinstance(result, VideoUnit):
            await watched.add(result)
