"""Runs ``live-avatar talk``: reads speech from a file or a microphone and shows progress.

Knows the client, the terminal and, where there is one, the microphone; nothing of processes.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console
from rich.live import Live

from live_avatar.cli.gateway import Gateway
from live_avatar.cli.gateway_errors import clear_errors
from live_avatar.cli.signals import run
from live_avatar.cli.warnings import Warnings
from live_avatar.client import LiveStats, SessionOptions
from live_avatar.client import talk as speak_live
from live_avatar.client.movie import Movie
from live_avatar.client.results import AUDIO_STARVED, CLIENT_SLOW, PIPELINE_SLOW
from live_avatar.client.speech import SpeechFile

PIECE_S = 0.04
"""Speech that is sent at once, as a telephone would."""
_SAMPLE_BYTES = 2
_MICROPHONE_HZ = 16_000
_SPOILED = {
    AUDIO_STARVED: "speech too late, silence in its place",
    PIPELINE_SLOW: "pipeline slower than real time",
    CLIENT_SLOW: "finished video taken too late",
}
"""What a viewer notices, by the gateway's reason."""


class Source(Protocol):
    """Speech as it is spoken; a context manager."""

    rate_hz: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was wrong with the speech that was read."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def pieces(self) -> AsyncIterator[bytes]:
        """16-bit samples, each piece at its time; an empty one is a pause that ends an utterance."""
        ...


class FromFile:
    """A recording, as fast as it was spoken."""

    def __init__(self, path: Path) -> None:
        self._file = SpeechFile(path)
        self.rate_hz = self._file.rate_hz

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.__exit__(*exc)

    @property
    def warnings(self) -> tuple[str, ...]:
        """See ``Source``."""
        return self._file.warnings

    async def pieces(self) -> AsyncIterator[bytes]:
        """See ``Source``."""
        began_s, sent = time.monotonic(), 0
        size = int(PIECE_S * self.rate_hz) * _SAMPLE_BYTES
        async for chunk in self._file.read():
            for first in range(0, len(chunk), size):
                piece = chunk[first : first + size]
                yield piece
                sent += len(piece) // _SAMPLE_BYTES
                await asyncio.sleep(max(0.0, began_s + sent / self.rate_hz - time.monotonic()))
        yield b""


class FromMicrophone:
    """Audio of the default microphone, until ``stop``."""

    rate_hz = _MICROPHONE_HZ
    warnings = ()

    def __init__(self) -> None:
        sounddevice: Any = import_module("sounddevice")
        frames = int(PIECE_S * self.rate_hz)
        self._stream = sounddevice.RawInputStream(self.rate_hz, frames, dtype="int16", channels=1)
        self._frames = frames
        self._stopped = False

    def stop(self) -> None:
        """Ends the speech after the piece that is being recorded."""
        self._stopped = True

    def __enter__(self) -> Self:
        self._stream.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """See ``Source``; an open microphone is one utterance."""
        while not self._stopped:
            data: Any = (await asyncio.to_thread(self._stream.read, self._frames))[0]
            yield bytes(data)


def has_microphone() -> bool:
    """Whether the package that reads microphones is installed."""
    return find_spec("sounddevice") is not None


def from_file(path: Path) -> Source:
    """The speech of a file; raises ValueError or OSError where it has none."""
    return FromFile(path)


def from_microphone() -> Source:
    """The speech of the microphone."""
    return FromMicrophone()


def hold_talk(
    gateway: Gateway,
    image: bytes,
    speech: Source,
    out: Movie | None,
    warnings: Warnings,
    *,
    prompt: str,
    seed: int,
    resume: bool,
) -> LiveStats:
    """Talks until the speech ends; a line on stderr shows the progress, with warnings above it.

    The first Ctrl-C stops the microphone; the speech recorded until then is still played.

    Raises:
        ValueError: a file is not what it must be, or the gateway refused it.
        OSError: a file cannot be read or written, or the gateway failed or is not there.
    """
    options = SessionOptions(sample_rate_hz=speech.rate_hz, prompt=prompt, seed=seed, delivery="live")
    stop = speech.stop if isinstance(speech, FromMicrophone) else None
    return run(_hold(gateway, image, options, speech, out, warnings, resume=resume), on_ctrl_c=stop)


async def _hold(
    gateway: Gateway,
    image: bytes,
    options: SessionOptions,
    speech: Source,
    out: Movie | None,
    warnings: Warnings,
    *,
    resume: bool,
) -> LiveStats:
    with (
        clear_errors(gateway.address),
        Live("waiting for the first frame", console=Console(stderr=True), refresh_per_second=5) as line,
    ):

        def show(seen: LiveStats) -> None:
            for warning in seen.warnings:
                warnings.show(warning.reason, warning.message)
            for number, sentence in enumerate(seen.breaks):
                warnings.show(f"break {number}", sentence)
            line.update(describe(seen))

        async with gateway.connect() as client:
            return await speak_live(client, image, options, speech.pieces(), out, show, resume=resume)


def describe(seen: LiveStats) -> str:
    """How a talk goes, in one line."""
    parts = [f"{seen.video_s:.1f} s", f"lead {seen.lead_s:.2f} s", f"late frames {seen.late_frames}"]
    if seen.reactions_s:
        parts.append(f"reaction {seen.reactions_s[-1]:.2f} s")
    if seen.slowest is not None:
        parts.append(f"most time in {seen.slowest.service}")
    parts += [_SPOILED.get(reason, reason) for reason in seen.degraded]
    return "  ".join(parts)


def conclusions(seen: LiveStats) -> list[str]:
    """What spoiled a talk, one line for each reason; none where nothing did."""
    return [_conclusion(reason, times, seen) for reason, times in sorted(seen.spoiled.items())]


def _conclusion(reason: str, times: int, seen: LiveStats) -> str:
    what = _SPOILED.get(reason, reason)
    if reason != PIPELINE_SLOW:
        return f"{what}: {times} {'time' if times == 1 else 'times'}"
    where = f", most time in {seen.slow_service}" if seen.slow_service else ""
    return f"{what}: {seen.stalled_s:.1f} s stalled{where}"
