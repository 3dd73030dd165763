"""Services are killed or asked to end under a session: it goes on, and every frame is that of the loop primed there."""

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from live_avatar.cli.inputs import PORTRAIT
from live_avatar.client import AudioUnit, AvatarClient, AvatarStream, Event, SessionOptions, VideoUnit, live_stream
from live_avatar.client.live import LiveStream
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.launcher import pipeline
from live_avatar.launcher.child import Child, Program
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import DECODER, ENCODER, GATEWAY, LocalPipeline, Plan
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.audio_window import AudioWindow
from live_avatar.streaming.block import Block

from .harness.processes import free_port
from .harness.recordings import Recording
from .harness.reference import Script, System
from .harness.running import address, held

pytestmark = pytest.mark.alone

LOG = logging.getLogger(__name__)
BLOCKS, STEPS = 16, 4
SPEECH = Script(blocks=BLOCKS, voice=3).samples(TINY)
RECORDING = Recording(
    face=PORTRAIT.read_bytes(), speech=SPEECH.tobytes(), blocks=BLOCKS, seed=5, prompt="a person talks", streaming=True
)
OPTIONS = SessionOptions(
    sample_rate_hz=SAMPLE_RATE_HZ,
    sample_format="f32",
    video="rgb24",
    delivery="live",
    seed=RECORDING.seed,
    prompt=RECORDING.prompt,
)
END_S = 150.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    plan = Plan(layout=parse_layout("4x1"), logs=tmp_path_factory.mktemp("logs"))
    with patient(), LocalPipeline(plan, LOG.info) as running:
        yield running


@contextmanager
def patient() -> Iterator[None]:
    """Services that are asked to end give their sessions more time than a busy machine needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "DRAIN_S", 30.0)
        yield


@dataclass
class Watched:
    """What a viewer got."""

    frames: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    speech: bytes = b""
    moved: list[int] = field(default_factory=list)
    """First blocks after a discontinuity."""
    causes: list[str] = field(default_factory=list)
    """Of the discontinuities."""
    ended: bool = False

    @property
    def blocks(self) -> int:
        """Blocks that came as a whole."""
        return (len(self.frames) + TINY.stream.dropped_frames) // TINY.frames_per_block

    async def watch(self, stream: LiveStream | AvatarStream) -> None:
        async for result in stream:
            if isinstance(result, VideoUnit):
                assert result.first_frame == len(self.frames)
                self.frames.append(result.data)
                self.times.append(time.monotonic())
            elif isinstance(result, AudioUnit):
                self.speech += result.data
            elif isinstance(result, Event) and result.kind == "DISCONTINUITY":
                self.moved.append(result.block_index)
                self.causes.append(result.warning.reason if result.warning else "")

    def wait_for_block(self, block: int) -> None:
        """Returns once ``block`` has come, to a thread that is not the viewer's."""
        deadline = time.monotonic() + END_S
        while self.blocks <= block:
            assert not self.ended and time.monotonic() < deadline, f"block {block} does not come"
            time.sleep(0.01)

    def gap_s(self, block: int) -> float:
        """How long nothing came before ``block``."""
        first = block * TINY.frames_per_block - TINY.stream.dropped_frames
        return self.times[first] - self.times[first - 1]


async def watch(target: str, seen: Watched, options: SessionOptions = OPTIONS) -> None:
    """A whole session."""
    try:
        async with AvatarClient(target) as client:
            session = await client.create_session(RECORDING.face, options)
            opening = live_stream(session) if options.delivery == "live" else session.stream()
            async with opening as stream, asyncio.timeout(END_S):
                await stream.send_audio(SPEECH.tobytes())
                await stream.end()
                await seen.watch(stream)
    finally:
        seen.ended = True


def watched(tiny: LocalPipeline, kills: dict[int, str], options: SessionOptions = OPTIONS) -> Watched:
    """What a session was; after each of the blocks a service is killed and started again."""
    seen = Watched()
    with ThreadPoolExecutor(1) as viewers:
        viewing = viewers.submit(asyncio.run, watch(tiny.gateway, seen, options))
        for block, victim in kills.items():
            seen.wait_for_block(block)
            tiny.services[victim].kill()
            tiny.restart(victim)
        viewing.result(END_S)
    return seen


class Oracle:
    """The blocks of the session by the library's loop, which goes on where the session did."""

    def __init__(self, offline: Recording | None = None) -> None:
        self._system = System(TINY)
        with torch.inference_mode():
            self._audio = list(self._encoded() if offline is None else self._system._audio(offline))
        self._made = self._system._loop(RECORDING, self._audio, STEPS)

    @torch.inference_mode()
    def _encoded(self) -> Iterator[AudioTokens]:
        window, size = AudioWindow(TINY), TINY.samples_per_block
        padded = np.concatenate((SPEECH, np.zeros(3 * size, np.float32)))
        for block in range(BLOCKS):
            end = (block + 1) * size + round(TINY.stream.lookahead_s * SAMPLE_RATE_HZ)
            window.append(padded[end - size if block else 0 : end])
            yield self._system._tokens(self._system.receive(window.next_block()))

    def go_on(self, next_block: int) -> None:
        """The session went on at ``next_block``."""
        blocks = [
            Block(index=one.block, audio=audio, latent=one.latent)
            for one, audio in zip(self._made, self._audio, strict=True)
        ]
        self._made[next_block:] = self._system.resumed(RECORDING, blocks, next_block)

    def check(self, seen: Watched) -> None:
        """The session shows the same frames, with the discontinuities that it had."""
        for block in seen.moved:
            self.go_on(block)
        expected = self.frames()[: len(seen.frames)]
        wrong = [number for number, (got, one) in enumerate(zip(seen.frames, expected, strict=True)) if got != one]
        assert not wrong, f"frames {wrong[:10]}, moved at blocks {seen.moved}"

    def frames(self) -> list[bytes]:
        return [picture.numpy().tobytes() for one in self._made for piece in one.frames for picture in piece.pixels]


def test_frames_after_every_recovery_are_those_of_the_loop(tiny: LocalPipeline) -> None:
    kills = {2: "denoise-stage-1", 6: DECODER, 9: ENCODER, 12: "denoise-stage-0"}
    seen = watched(tiny, kills)
    assert len(seen.moved) == len(kills)
    LOG.info("gaps: %s", [round(seen.gap_s(block), 2) for block in seen.moved])
    assert seen.speech.startswith(SPEECH.tobytes()), "speech was lost"
    oracle = Oracle()
    assert len(seen.frames) == len(oracle.frames())
    oracle.check(seen)


@pytest.mark.parametrize("listening", ["whole_file", "streaming"])
def test_frames_of_a_recording_are_those_of_the_loop(
    tiny: LocalPipeline, listening: Literal["whole_file", "streaming"]
) -> None:
    options = replace(OPTIONS, delivery="offline", listening=listening)
    seen = watched(tiny, {2: "denoise-stage-1"}, options)
    assert seen.causes == ["STAGE_LOST"]
    assert seen.speech == SPEECH.tobytes()
    spoken = -(-SPEECH.size * TINY.stream.fps // SAMPLE_RATE_HZ)
    assert len(seen.frames) == spoken - TINY.stream.dropped_frames
    Oracle(replace(RECORDING, streaming=listening == "streaming")).check(seen)


@pytest.fixture(scope="module")
def second(tiny: LocalPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """Another pipeline of the same weights, with the steps split otherwise."""
    plan = Plan(layout=parse_layout("1x4"), logs=tmp_path_factory.mktemp("second"))
    with patient(), LocalPipeline(plan, LOG.info) as running:
        yield running


def services_of(system: LocalPipeline) -> list[str]:
    return [name for name in system.services if name != GATEWAY]


@contextmanager
def gateway_before(folder: Path, *systems: LocalPipeline) -> Iterator[str]:
    """A gateway before the pipelines of all ``systems``."""
    pipelines = [f"{address(system, ENCODER)}/{address(system, DECODER)}" for system in systems]
    flags = ("--pipelines", ",".join(pipelines), "--allow-shared-devices")
    program = Program(name="gateway-before-all", module="live_avatar.services.gateway", flags=flags)
    child = Child(program, folder / "gateway.log", free_port())
    try:
        child.wait_listening(60.0)
        yield f"127.0.0.1:{child.port}"
    finally:
        child.kill()
        child.reap(15.0)


def leave(system: LocalPipeline) -> None:
    """Asks all services of a pipeline to end, and waits until they have."""
    for name in services_of(system):
        system.services[name].terminate()
    for name in services_of(system):
        assert system.services[name].reap(END_S), f"{name} still holds a session"


def test_a_session_leaves_a_pipeline_that_is_asked_to_end(
    tiny: LocalPipeline, second: LocalPipeline, tmp_path: Path
) -> None:
    seen = Watched()
    with gateway_before(tmp_path, tiny, second) as target, ThreadPoolExecutor(1) as viewers:
        asyncio.run(both_ready(target))
        viewing = viewers.submit(asyncio.run, watch(target, seen))
        seen.wait_for_block(2)
        (before,) = [one for one in (tiny, second) if asyncio.run(held(one, ENCODER))[0]]
        leave(before)
        viewing.result(END_S)
        for name in services_of(before):
            before.restart(name)
    LOG.info("gaps: %s at %s", [round(seen.gap_s(block), 2) for block in seen.moved], seen.moved)
    assert seen.causes == ["DRAINING"]
    assert seen.speech.startswith(SPEECH.tobytes()), "speech was lost"
    Oracle().check(seen)


async def both_ready(target: str) -> None:
    async with asyncio.timeout(END_S), AvatarClient(target) as client:
        while sum("(ready)" in one for one in (await client.server_info()).pipelines) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
