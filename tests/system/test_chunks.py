"""However a client cuts its speech, the video is the same bit for bit, through all services."""

import asyncio
import random
from collections.abc import Iterator

import pytest

from live_avatar.client import AvatarClient, AvatarStream, SessionOptions, VideoUnit
from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.launcher.pipeline import LocalPipeline

from .test_bad_input import face, noise, saved

pytestmark = pytest.mark.alone

SPEECH_S = 4.3
SAMPLE_BYTES = 2
ONE_BY_ONE = 2_000
"""Samples that are sent one at a time before the rest follows in pieces of random length."""
OPTIONS = SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ, seed=5, video="rgb24", listening="streaming")


def speech() -> bytes:
    """Noise that ends in the middle of a block."""
    return (noise(SPEECH_S) * 32_000).astype("<i2").tobytes()


def pieces(spoken: bytes, lengths: Iterator[int]) -> Iterator[bytes]:
    """Consecutive pieces of so many samples each."""
    first = 0
    while first < len(spoken):
        size = SAMPLE_BYTES * next(lengths)
        yield spoken[first : first + size]
        first += size


def of_any_length() -> Iterator[int]:
    """One sample for a while, then up to three seconds."""
    generator = random.Random(0)
    yield from [1] * ONE_BY_ONE
    while True:
        yield min(3 * SAMPLE_RATE_HZ, int(generator.paretovariate(0.5) * 40))


def of_one_length(samples: int) -> Iterator[int]:
    while True:
        yield samples


async def send(stream: AvatarStream, lengths: Iterator[int]) -> None:
    for piece in pieces(speech(), lengths):
        await stream.send_audio(piece)
    await stream.end()


async def movie(system: LocalPipeline, lengths: Iterator[int]) -> list[bytes]:
    """The pictures of the speech, cut into pieces of these lengths."""
    async with AvatarClient(system.gateway) as client:
        session = await client.create_session(saved(face(), "PNG"), OPTIONS)
        async with session.stream() as stream, asyncio.TaskGroup() as tasks:
            tasks.create_task(send(stream, lengths))
            return [result.data async for result in stream if isinstance(result, VideoUnit)]


def test_the_video_does_not_depend_on_the_chunks(system: LocalPipeline) -> None:
    async def run() -> None:
        whole = await movie(system, of_one_length(3 * SAMPLE_RATE_HZ))
        assert len(whole) == 9 * 12 - 3
        for lengths in (of_any_length(), of_one_length(161), of_one_length(7_681)):
            assert await movie(system, lengths) == whole

    asyncio.run(run())
