"""Counts the files that a live audio chunk and a block of video enter: ``python -m tools.trip``.

All services of a TINY pipeline and a gateway run in this process under a profiler.  A file counts where each of several
chunks or blocks enters it on its way, so that what happens beside them does not count.  Blocks go one at a time.  While
speech waits in the gateway for its block nothing counts; its way goes on with those who call for it.
"""

import asyncio
import dis
import io
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import numpy as np
from PIL import Image

from live_avatar.client import AvatarClient, SessionOptions, VideoUnit
from live_avatar.services.audio_encoder.service import build as audio_encoder
from live_avatar.services.audio_encoder.settings import AudioEncoderSettings
from live_avatar.services.denoise_stage.service import build as denoise_stage
from live_avatar.services.denoise_stage.settings import DenoiseStageSettings
from live_avatar.services.gateway.service import build as gateway
from live_avatar.services.gateway.settings import GatewaySettings
from live_avatar.services.vae_decoder.service import build as vae_decoder
from live_avatar.services.vae_decoder.settings import VaeDecoderSettings
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.telemetry import Telemetry

PACKAGE = Path(__file__).parents[1] / "live_avatar"
RATE_HZ = 16_000
CHUNKS = 12
BLOCKS = 12


@dataclass
class Trip:
    """The ways of several things of a kind, each the files in the order in which they were entered."""

    name: str
    under_way: dict[int, dict[str, None]] = field(default_factory=dict)
    ended: list[dict[str, None]] = field(default_factory=list)
    closed: bool = False

    def begin(self, key: int) -> None:
        """Begins the way of one of them."""
        if not self.closed:
            self.under_way[key] = {}

    def enter(self, file: str) -> None:
        """Notes a file for all that are under way."""
        for files in self.under_way.values():
            files.setdefault(file)

    def end(self, key: int) -> None:
        """Ends the way of one of them, if it has begun."""
        files = self.under_way.pop(key, None)
        if files is not None:
            self.ended.append(files)

    @property
    def files(self) -> list[str]:
        """Those that all have entered, in the order of the last one."""
        if not self.ended:
            return []
        common = set.intersection(*map(set, self.ended))
        return [file for file in self.ended[-1] if file in common]


class Profiler:
    """Follows calls in all threads."""

    def __init__(self) -> None:
        self.chunk = Trip("a live audio chunk, StreamAvatar to AudioWindow.append")
        self.block = Trip("a block, audio encoder to client")
        self._chunk_waits = False
        self._files: dict[str, str] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """See ``sys.setprofile``."""
        if event not in ("call", "return"):
            return
        name = frame.f_code.co_filename
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = _product_file(name)
        if not file:
            return
        place = f"{file}:{frame.f_code.co_name}"
        if event == "return":
            self._leave(place, frame)
            return
        if _resumed(frame):
            return
        self._begin(place, frame)
        self.block.enter(file)
        if not self._chunk_waits:
            self.chunk.enter(file)
        arrives = place == "streaming/audio_window.py:append" and not self._chunk_waits
        if arrives and np.any(frame.f_locals["samples"]):
            self.chunk.end(0)

    def _begin(self, place: str, frame: FrameType) -> None:
        if place == "services/gateway/api/stream.py:_consume":
            if frame.f_locals["request"].HasField("audio_chunk"):
                self.chunk.begin(0)
                self._chunk_waits = False
        elif place == "services/gateway/pipelines/messages.py:audio":
            if self._chunk_waits and np.any(frame.f_locals["samples"]):
                self._chunk_waits = False
                for caller in reversed(self._callers(frame)):
                    self.chunk.enter(caller)
        elif place == "services/audio_encoder/work.py:block":
            self.block.begin(frame.f_locals["block"].index)

    def _leave(self, place: str, frame: FrameType) -> None:
        if place == "services/gateway/api/stream.py:_consume":
            self._chunk_waits = True
        elif place == "services/gateway/api/stream.py:_respond":
            response = frame.f_locals["response"]
            if response.HasField("video_unit"):
                self.block.end(response.video_unit.block_index)

    def _callers(self, frame: FrameType) -> list[str]:
        files = []
        caller = frame.f_back
        while caller is not None:
            file = self._files.get(caller.f_code.co_filename)
            if file:
                files.append(file)
            caller = caller.f_back
        return files


def _resumed(frame: FrameType) -> bool:
    """Whether a coroutine goes on, which is no call."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return dis.opname[code[at]] == "RESUME" and code[at + 1] & 3 != 0


def _product_file(name: str) -> str:
    path = Path(name)
    for root in (PACKAGE, PACKAGE.parent):
        if path.is_relative_to(root):
            file = str(path.relative_to(root))
            outside = file.startswith(("client/", "tools/", ".venv")) or "_pb2" in file
            return "" if outside else file.removeprefix("live_avatar/")
    return ""


@asynccontextmanager
async def _serving(build: Any, settings: Any) -> AsyncIterator[str]:
    """A service on a free port; its address."""
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(Telemetry(build.__module__))
        service = await stack.enter_async_context(build(settings, telemetry))
        server = grpc.aio.server(interceptors=[ErrorInterceptor(telemetry), *service.interceptors])
        service.register(server)
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, None)
        yield target


@asynccontextmanager
async def _system() -> AsyncIterator[str]:
    async with (
        _serving(vae_decoder, VaeDecoderSettings()) as tail,
        _serving(denoise_stage, DenoiseStageSettings(next=tail, steps="0-3")) as stage,
        _serving(audio_encoder, AudioEncoderSettings(next=stage, allow_shared_devices=True)) as head,
        _serving(gateway, GatewaySettings(pipelines=(f"{head}/{tail}",), allow_shared_devices=True)) as address,
    ):
        yield address


async def _talk(address: str, profiler: Profiler) -> None:
    portrait = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 150, 120)).save(portrait, "PNG")
    speech = np.full(RATE_HZ // 10, 8_000, "<i2").tobytes()
    async with AvatarClient(address) as client, asyncio.timeout(300):
        while not (await client.server_info()).session_capacity:  # noqa: ASYNC110 - as any client
            await asyncio.sleep(0.1)
        session = await client.create_session(
            portrait.getvalue(), SessionOptions(sample_rate_hz=RATE_HZ, delivery="live")
        )
        async with session.stream() as stream, asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(_play(stream))
            while profiler.chunk.under_way or len(profiler.chunk.ended) < CHUNKS:
                await stream.send_audio(speech)
                await asyncio.sleep(1.2)
            profiler.chunk.closed = True
            reading.cancel()
        await session.close()
        session = await client.create_session(portrait.getvalue(), SessionOptions(sample_rate_hz=RATE_HZ))
        profiler.block.ended.clear()
        async with session.stream() as stream:
            while len(profiler.block.ended) < BLOCKS:
                await stream.send_audio(speech)
                await asyncio.sleep(0.5)
        await session.close()


async def _play(stream: Any) -> None:
    async for result in stream:
        if isinstance(result, VideoUnit):
            await stream.report_playback(result.end_ns)


async def _main() -> None:
    profiler = Profiler()
    threading.setprofile(profiler)
    sys.setprofile(profiler)
    async with _system() as address:
        await _talk(address, profiler)
    sys.setprofile(None)
    for trip in (profiler.chunk, profiler.block):
        own = sum(file.startswith("services/gateway/") for file in trip.files)
        sys.stdout.write(f"{trip.name}: {len(trip.files)} files, {own} of the gateway ({len(trip.ended)} ways)\n")
        sys.stdout.writelines(f"  {file}\n" for file in trip.files)


if __name__ == "__main__":
    asyncio.run(_main())
