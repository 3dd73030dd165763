"""Sessions as a client has them, with the time at which everything came.

Uses the client library alone; whether there are networks or waits behind the gateway makes no difference.
"""

import asyncio
import io
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from benchmarks import stats
from live_avatar.client import AvatarClient, SessionOptions, VideoUnit
from live_avatar.client.options import Video
from live_avatar.client.stream import AvatarStream
from live_avatar.config import SAMPLE_RATE_HZ, Preset

STEADY_FROM = 8
"""Block from which a session counts as steady: block 4 has waited for the model's own sink, and that has passed."""
PAUSE_S = 0.5
"""From the opening of a session to its first word: the portrait has passed all services by then."""
_TONE_HZ = 220.0


def portrait(width: int, height: int) -> bytes:
    """A picture of that size as a PNG file; its shape decides that of the video."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (120, 90, 60)).save(file, "PNG")
    return file.getvalue()


def speech(seconds: float) -> bytes:
    """A tone as 16-bit samples at the model's rate."""
    time_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (8000 * np.sin(2 * math.pi * _TONE_HZ * time_s)).astype("<i2").tobytes()


@dataclass
class Run:
    """What came of one session."""

    session_id: str
    frames_per_block: int
    sent_at: float = 0.0
    """When the first speech was sent, on the monotonic clock."""
    units: list[VideoUnit] = field(default_factory=list)
    """One per block, without the pictures."""
    arrivals: list[float] = field(default_factory=list)

    @property
    def first_video_s(self) -> float:
        """From the first speech that was sent to the first video that came."""
        return self.arrivals[0] - self.sent_at

    @property
    def frames_per_second(self) -> float:
        """Rate of the steady part, counted in whole blocks."""
        # The last block may have fewer frames, and they come no later for it.
        return stats.rate(self.arrivals, self.frames_per_block, STEADY_FROM)

    def hops_s(self, *services: str) -> list[float]:
        """Times of the hops to these services, from the steady part."""
        timings = (timing for unit in self.units[STEADY_FROM:] for timing in unit.timings)
        return [timing.hop_s for timing in timings if timing.service in services]


async def offline(
    client: AvatarClient,
    image: bytes,
    blocks: int,
    preset: Preset,
    video: Video = "h264",
    seed: int = 0,
    on_steady: Callable[[], object] = lambda: None,
    holder: AvatarClient | None = None,
) -> Run:
    """One session whose speech is there from the beginning; its video comes as fast as it can.

    ``on_steady`` is called when block ``STEADY_FROM`` has come; ``holder`` is a client of the gateway that is to hold
    the session, where that is another than the one of ``client``.

    Raises:
        AvatarError: the session failed.
    """
    options = SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ, seed=seed, video=video)
    seconds = blocks * preset.samples_per_block / SAMPLE_RATE_HZ
    request_id = uuid.uuid4().hex
    if holder is not None:
        await holder.create_session(image, options, request_id=request_id)
    session = await client.create_session(image, options, request_id=request_id)
    run = Run(session.session_id, preset.frames_per_block)
    try:
        async with session.stream() as stream:
            await asyncio.sleep(PAUSE_S)
            sending = asyncio.create_task(_send(stream, speech(seconds), run))
            try:
                await _collect(stream, run, on_steady)
            finally:
                sending.cancel()
                await asyncio.wait({sending})
    finally:
        await session.close()
    return run


async def _send(stream: AvatarStream, samples: bytes, run: Run) -> None:
    run.sent_at = time.monotonic()
    await stream.send_audio(samples)
    await stream.end()


async def _collect(stream: AvatarStream, run: Run, on_steady: Callable[[], object]) -> None:
    async for result in stream:
        if isinstance(result, VideoUnit):
            run.arrivals.append(time.monotonic())
            run.units.append(result)
            if len(run.units) == STEADY_FROM + 1:
                on_steady()
