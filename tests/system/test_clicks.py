"""A click is seen when it is heard, after one second and after ten minutes of media."""

import asyncio
import logging
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from live_avatar.client import AvatarClient, GenerateStats, generate_file
from live_avatar.config import TINY
from tests.services.gateway.clients import portrait
from tests.services.processes import ServiceProcess, started

from .harness.click_pipeline import click_pipeline
from .harness.running import ready

pytestmark = pytest.mark.alone

LOG = logging.getLogger(__name__)
FPS = TINY.stream.fps
CLICKS_S = (1.0, 600.0)
LENGTH_S = 601.3
RATE_HZ = 44_100
"""No simple ratio to the model's rate: a clock that is off by a sample a second would show."""
CLICK_S = 0.01


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Silence but for the clicks; too long to be heard as a whole."""
    samples = np.zeros(round(LENGTH_S * RATE_HZ), "<i2")
    for second in CLICKS_S:
        at = round(second * RATE_HZ)
        samples[at : at + round(CLICK_S * RATE_HZ)] = 25_000 * np.resize([1, 1, 1, 1, -1, -1, -1, -1], 441)
    path: Path = tmp_path_factory.mktemp("speech") / "clicks.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture(scope="module")
def movie(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GenerateStats]:
    """The film of the recording, made by the client through a gateway of its own process."""
    out: Path = tmp_path_factory.mktemp("out") / "clicks.mp4"

    async def run() -> GenerateStats:
        async with click_pipeline() as pipeline:
            with started("gateway", "--pipelines", pipeline.address) as gateway:
                return await generate(gateway, recording, out)

    began = time.monotonic()
    measured = asyncio.run(run())
    LOG.info("%.0f s of media in %.1f s", measured.video_s, time.monotonic() - began)
    return out, measured


async def generate(gateway: ServiceProcess, recording: Path, out: Path) -> GenerateStats:
    target = await asyncio.to_thread(gateway.target)
    await ready(target)
    async with AvatarClient(target) as client:
        return await generate_file(client, portrait(), recording, out, enlargement=1)


@pytest.fixture(scope="module")
def frames(movie: tuple[Path, GenerateStats]) -> list[tuple[float, bool]]:
    """Time of every frame, and whether it is bright."""
    return list(shown(movie[0]))


def test_no_frame_is_lost(movie: tuple[Path, GenerateStats], frames: list[tuple[float, bool]]) -> None:
    times = [time_s for time_s, _ in frames]
    assert len(times) == np.ceil(LENGTH_S * FPS) - TINY.stream.dropped_frames == movie[1].frames
    following = [(number + TINY.stream.dropped_frames) / FPS for number in range(1, len(times))]
    assert times == pytest.approx([0.0, *following])


def test_clicks_are_seen_in_their_frames(frames: list[tuple[float, bool]]) -> None:
    bright = [time_s for time_s, is_bright in frames if is_bright]
    LOG.info("bright frames at %s s", bright)
    assert len(bright) == len(CLICKS_S)
    assert bright == pytest.approx(CLICKS_S, abs=1 / FPS)


def test_clicks_are_received_in_their_frames(movie: tuple[Path, GenerateStats]) -> None:
    received = [round(second, 4) for second in loud(movie[0])]
    LOG.info("clicks at %s s", received)
    assert len(received) == len(CLICKS_S)
    assert received == pytest.approx(CLICKS_S, abs=1 / FPS)


def shown(path: Path) -> Iterator[tuple[float, bool]]:
    """Time of every frame, and whether it is bright."""
    with av.open(path) as movie:
        for frame in movie.decode(video=0):
            yield float(frame.time), frame.to_ndarray(format="gray").mean() > 128


def loud(path: Path) -> Iterator[float]:
    """Where something is heard after silence."""
    last = -1.0
    for second in samples_above(path, 0.2):
        if second - last > 0.5:
            yield second
        last = second


def samples_above(path: Path, level: float) -> Iterator[float]:
    """Times of the samples whose size is over ``level``."""
    with av.open(path) as movie:
        rate_hz = movie.streams.audio[0].rate
        for frame in movie.decode(audio=0):
            assert frame.time is not None
            loud_ones = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > level)
            yield from (frame.time + int(index) / rate_hz for index in loud_ones)
