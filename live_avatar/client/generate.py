"""A portrait and a recording to a video file, with measurements.

Composes client, speech and movie; knows none of their insides.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict, Unpack

from live_avatar.client.breaks import Report, describe_break
from live_avatar.client.client import AvatarClient
from live_avatar.client.errors import AvatarError
from live_avatar.client.movie import Movie
from live_avatar.client.options import SessionOptions
from live_avatar.client.results import WARNING, BlockTiming, Event, Limits, Result, VideoUnit
from live_avatar.client.speech import SpeechFile
from live_avatar.client.stream import AvatarStream

Progress = Callable[[float, float], None]
"""Receives the seconds of video that have arrived, and those that are due (0: unknown)."""

Warn = Callable[[AvatarError], None]
"""Receives what is wrong but ends nothing, such as a portrait that the weights do not know."""


class GenerateOptions(TypedDict, total=False):
    """As in ``SessionOptions``."""

    prompt: str
    seed: int
    enlargement: int


@dataclass(frozen=True, kw_only=True)
class ServiceTimes:
    """Medians over all blocks of one service, in seconds."""

    queue_s: float
    compute_s: float
    encode_s: float
    hop_s: float


@dataclass(frozen=True, kw_only=True)
class GenerateStats:
    """What a run took."""

    frames: int
    video_s: float
    first_frame_s: float
    """From the first piece of speech that was sent to the first piece of video that came."""
    frames_per_second: float
    """Rate at which video came after its first piece; 0 where there was but one."""
    services: Mapping[str, ServiceTimes]
    warnings: tuple[str, ...] = ()
    """What was wrong with the recording, and how it was used all the same."""


async def generate_file(
    client: AvatarClient,
    image: bytes,
    speech: Path | SpeechFile,
    out: Path | Movie,
    *,
    progress: Progress | None = None,
    warn: Warn | None = None,
    report: Report | None = None,
    resume: bool = True,
    **options: Unpack[GenerateOptions],
) -> GenerateStats:
    """Writes the video of ``image`` saying ``speech`` to ``out``, an MP4 file.

    A recording within the server's limit is encoded as a whole, a longer one as a stream.  What is damaged in it is
    silent, see ``GenerateStats.warnings``.  Speech and video may be open already, so that what is wrong with them shows
    early; whoever opened them closes them.  ``resume`` is that of ``Session.stream``.

    Raises:
        ValueError: the portrait or the recording is not what it must be.
        OSError: a file cannot be read or written.
        AvatarError: the gateway refused, failed or is not there.
    """
    with ExitStack() as stack:
        recording = speech if isinstance(speech, SpeechFile) else stack.enter_context(SpeechFile(speech))
        inputs = () if isinstance(speech, SpeechFile) else (speech,)
        movie = out if isinstance(out, Movie) else stack.enter_context(Movie(out, inputs))
        limits = (await client.server_info()).limits
        if limits.max_image_bytes and len(image) > limits.max_image_bytes:
            raise ValueError(f"the image has {len(image)} bytes, the gateway takes {limits.max_image_bytes}")
        wanted = SessionOptions(
            sample_rate_hz=recording.rate_hz,
            listening="whole_file" if await _fits(recording, limits) else "streaming",
            **options,
        )
        watch = _Watch(progress, warn, report, recording.duration_s)
        measured = await _speak(client, image, wanted, recording, movie, watch, resume=resume)
        if not measured.units:
            raise ValueError("the recording is too short for a single frame")
        await movie.finish()
        return replace(measured.result(), warnings=recording.warnings)


@dataclass
class _StatsCollector:
    """Filled while a run lasts."""

    started_at: float = 0.0
    units: list[tuple[float, VideoUnit]] = field(default_factory=list)
    """Times of arrival and what came, without the data."""

    def add(self, unit: VideoUnit) -> None:
        """Notes a unit that has just come."""
        self.units.append((time.monotonic(), replace(unit, data=b"")))

    def result(self) -> GenerateStats:
        """What the run took, once it is over."""
        frames = sum(unit.frame_count for _, unit in self.units)
        first_at, first = self.units[0]
        after_s = self.units[-1][0] - first_at
        timings: dict[str, list[BlockTiming]] = defaultdict(list)
        for _, unit in self.units:
            for timing in unit.timings:
                timings[timing.service].append(timing)
        return GenerateStats(
            frames=frames,
            video_s=max(unit.end_ns for _, unit in self.units) / 1e9,
            first_frame_s=first_at - self.started_at,
            frames_per_second=(frames - first.frame_count) / after_s if after_s > 0 else 0.0,
            services={service: _medians(several) for service, several in timings.items()},
        )


@dataclass(frozen=True)
class _Watch:
    """Receives the progress."""

    progress: Progress | None
    warn: Warn | None
    report: Report | None
    due_s: float

    def see(self, result: Result) -> None:
        """Tells of what came."""
        if isinstance(result, VideoUnit) and self.progress is not None:
            self.progress(result.end_ns / 1e9, self.due_s)
        if isinstance(result, Event) and result.kind == WARNING and result.warning and self.warn is not None:
            self.warn(result.warning)
        if self.report is not None and (sentence := describe_break(result)) is not None:
            self.report(sentence)


async def _speak(
    client: AvatarClient,
    image: bytes,
    options: SessionOptions,
    recording: SpeechFile,
    movie: Movie,
    watch: _Watch,
    *,
    resume: bool,
) -> _StatsCollector:
    """A session from its creation to its end."""
    session = await client.create_session(image, options)
    movie.facts = session.facts
    try:
        async with session.stream(resume=resume) as stream:
            return await _run(stream, recording, movie, watch)
    finally:
        with suppress(AvatarError):  # a gateway that is gone frees it by itself
            await session.close()


async def _run(stream: AvatarStream, recording: SpeechFile, movie: Movie, watch: _Watch) -> _StatsCollector:
    """Sends the recording and collects the video at the same time."""
    measured = _StatsCollector()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_send(stream, recording, measured))
            await _collect(stream, movie, measured, watch)
    except* (AvatarError, ValueError, OSError) as group:
        error = group.exceptions[0]
    else:
        return measured
    raise error


async def _collect(stream: AvatarStream, movie: Movie, measured: _StatsCollector, watch: _Watch) -> None:
    async for result in stream:
        if isinstance(result, VideoUnit):
            await movie.append(result.data)
            measured.add(result)
        watch.see(result)


async def _send(stream: AvatarStream, recording: SpeechFile, measured: _StatsCollector) -> None:
    measured.started_at = time.monotonic()
    async for chunk in recording.read():
        await stream.send_audio(chunk)
    await stream.end()


async def _fits(recording: SpeechFile, limits: Limits) -> bool:
    """Whether the recording may be encoded as a whole, by its samples and not by what it says of itself."""
    try:
        return await asyncio.to_thread(recording.fits, limits.max_whole_file_s)
    except asyncio.CancelledError:
        recording.stop()
        raise


def _medians(timings: Sequence[BlockTiming]) -> ServiceTimes:
    return ServiceTimes(
        queue_s=statistics.median(timing.queue_s for timing in timings),
        compute_s=statistics.median(timing.compute_s for timing in timings),
        encode_s=statistics.median(timing.encode_s for timing in timings),
        hop_s=statistics.median(timing.hop_s for timing in timings),
    )
