"""One session for hours: nothing grows, nothing slows down, and the last pictures are those of the oracle.

A trivially small system runs as fast as it can; ``--endurance-seconds`` says how much media it makes.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from live_avatar.client import AudioUnit, AvatarClient, AvatarStream, SessionOptions, VideoUnit
from live_avatar.client.results import Result
from live_avatar.config import SAMPLE_RATE_HZ, preset_json
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan
from live_avatar.streaming.audio_window import AudioWindow, BlockPlan

from .harness.processes import Memory
from .harness.recordings import Recording
from .harness.reference import SIDE, System
from .harness.running import TRIVIAL
from .test_bad_input import face, saved

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(7_200)]

LOG = logging.getLogger(__name__)
RULES = TRIVIAL.stream
BLOCK_SAMPLES, BLOCK_FRAMES = TRIVIAL.samples_per_block, TRIVIAL.frames_per_block
STEPS = 4
MEMORY_BLOCKS = 40
"""More than a block can depend on: 4 steps of a window of 4 in one layer, then 38 latents in the decoder's caches."""
COMPARED_BLOCKS = 3
SIGHTINGS = 24
"""Looks at the processes, evenly over the session."""
GROWTH, SLOWER = 1.01, 1.5
"""A block whose cost grew with the session would take more than twice as long by then."""
SEED = 3
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def speech(block: int) -> NDArray[np.int16]:
    """Samples of one block: noise at the level of speech, different in every block."""
    noise: NDArray[np.float64] = np.random.default_rng(block).standard_normal(BLOCK_SAMPLES) * 3_000
    return noise.clip(-32_000, 32_000).astype("<i2")


@dataclass(frozen=True)
class Sighting:
    """What every process had taken when a block came."""

    block: int
    resident_kb: dict[str, int]
    cpu_s: dict[str, float]


@dataclass
class Watched:
    """What the client saw."""

    every: int
    """Blocks from one look at the processes to the next."""
    last: deque[VideoUnit] = field(default_factory=lambda: deque(maxlen=COMPARED_BLOCKS * BLOCK_FRAMES))
    last_audio: deque[AudioUnit] = field(default_factory=lambda: deque(maxlen=COMPARED_BLOCKS))
    frames: int = 0
    sightings: list[Sighting] = field(default_factory=list)

    def take(self, result: Result, running: LocalPipeline) -> None:
        """Keeps the last pictures and samples, and looks at the processes now and then."""
        if isinstance(result, AudioUnit):
            self.last_audio.append(result)
        if not isinstance(result, VideoUnit):
            return
        self.last.append(result)
        self.frames += result.frame_count
        if (len(self.sightings) + 1) * self.every <= result.block_index:
            self.sightings.append(sighting(running, result.block_index))


@pytest.fixture(scope="module")
def blocks(request: pytest.FixtureRequest) -> int:
    """Length of the session."""
    seconds: int = request.config.getoption("--endurance-seconds")
    return seconds * RULES.fps // BLOCK_FRAMES


@pytest.fixture(scope="module")
def watched(blocks: int, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A session of that length through all services."""
    folder: Path = tmp_path_factory.mktemp("endurance")
    preset = folder / "trivial.json"
    preset.write_text(preset_json(TRIVIAL))
    plan = Plan(layout=parse_layout("1x4"), preset=str(preset), logs=folder / "logs")
    began = time.monotonic()
    with LocalPipeline(plan, lambda line: None) as running:
        seen = asyncio.run(asyncio.wait_for(watch(running, blocks), 60 + blocks))
    LOG.info("%.0f s of media in %.0f s", blocks * BLOCK_FRAMES / RULES.fps, time.monotonic() - began)
    return seen


async def watch(running: LocalPipeline, blocks: int) -> Watched:
    """Speaks for so many blocks and looks at everything that comes back."""
    options = SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ, seed=SEED, video="rgb24", listening="streaming")
    seen = Watched(max(1, blocks // SIGHTINGS))
    async with AvatarClient(running.gateway) as client:
        session = await client.create_session(saved(face(), "PNG"), options)
        async with session.stream() as stream, asyncio.TaskGroup() as tasks:
            tasks.create_task(speak(stream, blocks))
            async for result in stream:
                seen.take(result, running)
    return seen


async def speak(stream: AvatarStream, blocks: int) -> None:
    for block in range(blocks):
        await stream.send_audio(speech(block).tobytes())
    await stream.end()


def sighting(running: LocalPipeline, block: int) -> Sighting:
    """What the processes have taken by now."""
    pids = {name: child.process.pid for name, child in running.services.items()}
    memory = {name: Memory(pid).resident_kb for name, pid in pids.items()}
    return Sighting(block, memory, {name: cpu_s(pid) for name, pid in pids.items()})


def cpu_s(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def test_every_frame_comes_and_stands_where_its_speech_is(watched: Watched, blocks: int) -> None:
    assert watched.frames == blocks * BLOCK_FRAMES - RULES.dropped_frames
    for unit in watched.last:
        media_frame = unit.first_frame + RULES.dropped_frames
        assert unit.start_ns == media_frame * 10**9 // RULES.fps
        assert unit.block_index == media_frame // BLOCK_FRAMES
    for position, audio in enumerate(watched.last_audio, blocks - COMPARED_BLOCKS):
        assert audio.start_ns == position * BLOCK_SAMPLES * 10**9 // SAMPLE_RATE_HZ
        assert audio.data == speech(position).tobytes()


def test_memory_and_time_of_a_block_stay_what_they_were(watched: Watched) -> None:
    quarter = len(watched.sightings) // 4
    early, late = watched.sightings[quarter : 2 * quarter], watched.sightings[-quarter:]
    for name in early[0].resident_kb:
        was, grown = (max(one.resident_kb[name] for one in part) for part in (early, late))
        before_ms, after_ms = (cpu_per_block_ms(part, name) for part in (early, late))
        LOG.info("%s: %d kB, then %+d kB; %.2f ms a block, then %.2f", name, was, grown - was, before_ms, after_ms)
        assert grown < GROWTH * was, name
        assert after_ms < SLOWER * before_ms + 0.5, name


def cpu_per_block_ms(part: list[Sighting], name: str) -> float:
    """Of the cheapest span between two looks: other work on the machine makes the same block dearer for a while."""
    return min(1000 * (b.cpu_s[name] - a.cpu_s[name]) / (b.block - a.block) for a, b in pairwise(part))


def test_the_last_pictures_are_those_of_the_oracle_started_there(watched: Watched, blocks: int) -> None:
    """Bit for bit: the rotary positions, the sink, the noise and the speech of these blocks are the right ones."""
    system, script = (
        System(TRIVIAL),
        Recording(face=saved(face(), "PNG"), speech=speech(0).tobytes(), seed=SEED, prompt=""),
    )
    first = blocks - MEMORY_BLOCKS - COMPARED_BLOCKS
    plans = received(blocks)
    features = [system.receive(plan) for plan in plans if plan.block == 0 or plan.block >= first]
    own = system.first_latent(script, features[0], STEPS)
    made = list(system.late(script, own, features[1:], first, STEPS))[-COMPARED_BLOCKS:]
    wanted = b"".join(frames.pixels.numpy().tobytes() for one in made for frames in one.frames)
    got = b"".join(unit.data for unit in watched.last)
    assert len(got) == COMPARED_BLOCKS * BLOCK_FRAMES * SIDE * SIDE * 3
    assert got == wanted


def received(blocks: int) -> Iterator[BlockPlan]:
    """What the speech encoder hears of a session that speaks for so many blocks."""
    window = AudioWindow(TRIVIAL)
    for block in range(blocks):
        window.append(speech(block).astype(np.float32) / np.float32(32_768))
        while window.ready():
            yield window.next_block()
    window.finish()
    while window.ready():
        yield window.next_block()
