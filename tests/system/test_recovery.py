"""Services are killed while a live session speaks: it goes on, and every frame is that of the loop primed there."""

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from live_avatar.cli.inputs import PORTRAIT
from live_avatar.client import AudioUnit, AvatarClient, Event, SessionOptions, VideoUnit, live_stream
from live_avatar.client.live import LiveStream
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import DECODER, ENCODER, LocalPipeline, Plan
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.audio_window import AudioWindow
from live_avatar.streaming.block import Block

from .harness.recordings import Recording
from .harness.reference import Script, System

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
    with LocalPipeline(Plan(layout=parse_layout("4x1"), logs=tmp_path_factory.mktemp("logs")), LOG.info) as running:
        yield running


@dataclass
class Watched:
    """What a viewer got."""

    frames: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    speech: bytes = b""
    moved: list[int] = field(default_factory=list)
    """First blocks after a discontinuity."""
    ended: bool = False

    @property
    def blocks(self) -> int:
        """Blocks that came as a whole."""
        return (len(self.frames) + TINY.stream.dropped_frames) // TINY.frames_per_block

    async def watch(self, stream: LiveStream) -> None:
        async for result in stream:
            if isinstance(result, VideoUnit):
                assert result.first_frame == len(self.frames)
                self.frames.append(result.data)
                self.times.append(time.monotonic())
            elif isinstance(result, AudioUnit):
                self.speech += result.data
            elif isinstance(result, Event) and result.kind == "DISCONTINUITY":
                self.moved.append(result.block_index)

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


async def watch(target: str, seen: Watched) -> None:
    """A whole session."""
    try:
        async with AvatarClient(target) as client:
            session = await client.create_session(RECORDING.face, OPTIONS)
            async with live_stream(session) as stream, asyncio.timeout(END_S):
                await stream.send_audio(SPEECH.tobytes())
                await stream.end()
                await seen.watch(stream)
    finally:
        seen.ended = True


def watched(tiny: LocalPipeline, kills: dict[int, str]) -> Watched:
    """What a session was; after each of the blocks a service is killed and started again."""
    seen = Watched()
    with ThreadPoolExecutor(1) as viewers:
        viewing = viewers.submit(asyncio.run, watch(tiny.gateway, seen))
        for block, victim in kills.items():
            seen.wait_for_block(block)
            tiny.services[victim].kill()
            tiny.restart(victim)
        viewing.result(END_S)
    return seen


class Oracle:
    """The blocks of the session by the library's loop, which goes on where the session did."""

    def __init__(self) -> None:
        self._system = System(TINY)
        self._audio = list(self._encoded())
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

    def frames(self) -> list[bytes]:
        return [picture.numpy().tobytes() for one in self._made for piece in one.frames for picture in piece.pixels]


def test_frames_after_every_recovery_are_those_of_the_loop(tiny: LocalPipeline) -> None:
    kills = {2: "denoise-stage-1", 6: DECODER, 9: ENCODER, 12: "denoise-stage-0"}
    seen = watched(tiny, kills)
    assert len(seen.moved) == len(kills)
    LOG.info("gaps: %s", [round(seen.gap_s(block), 2) for block in seen.moved])
    assert seen.speech.startswith(SPEECH.tobytes()), "speech was lost"
    oracle = Oracle()
    for block in seen.moved:
        oracle.go_on(block)
    expected = oracle.frames()
    assert len(seen.frames) == len(expected)
    wrong = [number for number, (got, wanted) in enumerate(zip(seen.frames, expected, strict=True)) if got != wanted]
    assert not wrong, f"frames {wrong[:10]}, moved at blocks {seen.moved}"
