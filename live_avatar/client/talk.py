"""A recording spoken live, at its own pace, with what a viewer would notice: lead, reaction, late frames.

Composes stream, speech and movie; knows none of their insides.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from live_avatar.client.breaks import describe_break
from live_avatar.client.client import AvatarClient
from live_avatar.client.errors import AvatarError
from live_avatar.client.live import LiveStream, live_stream
from live_avatar.client.movie import Movie
from live_avatar.client.options import SessionOptions
from live_avatar.client.results import (
    AUDIO_STARVED,
    DEGRADED,
    DISCLOSURE,
    PIPELINE_SLOW,
    RECOVERED,
    WARNING,
    BlockTiming,
    Event,
    VideoUnit,
)

Pieces = AsyncIterator[bytes]
"""Speech as 16-bit samples, each piece when it is spoken; an empty piece is a pause that ends an utterance."""


@dataclass
class LiveStats:
    """Statistics of a live talk, while it runs and at its end."""

    video_s: float = 0.0
    lead_s: float = 0.0
    """Video that has come and was not shown yet."""
    late_frames: int = 0
    stalled_s: float = 0.0
    """For how long the last picture stood still, in all."""
    degraded: list[str] = field(default_factory=list)
    """Reasons of what spoils the talk now, such as PIPELINE_SLOW; each once."""
    spoiled: Counter[str] = field(default_factory=Counter)
    """How often each reason has begun."""
    slow_service: str = ""
    """Service to which the gateway put a slow pipeline down last."""
    reactions_s: list[float] = field(default_factory=list)
    """From the first piece of each utterance to the first video that speaks it."""
    slowest: BlockTiming | None = None
    """Where the newest block spent most of its time."""
    events: list[str] = field(default_factory=list)
    disclosure: str = ""
    """What people are to be shown, since they watch generated media."""
    warnings: list[AvatarError] = field(default_factory=list)
    """What is wrong but ends nothing, such as a portrait that the weights do not know."""
    breaks: list[str] = field(default_factory=list)
    """What the talk has outlived, a sentence each: lost streams, pipelines and gateways, and announced ends."""

    @property
    def starved(self) -> int:
        """Times that speech did not come in time."""
        return self.spoiled[AUDIO_STARVED]

    def note_state(self, event: Event) -> None:
        """Takes an event that says what spoils the talk, or that it is over."""
        # A gateway that gives no reason knows late speech alone.
        reason = event.warning.reason if event.warning is not None else AUDIO_STARVED
        if event.warning is not None and reason == PIPELINE_SLOW:
            self.slow_service = event.warning.metadata.get("service", self.slow_service)
        if reason in self.degraded:
            self.degraded.remove(reason)
        if event.kind == DEGRADED:
            self.degraded.append(reason)
            self.spoiled[reason] += 1


Watch = Callable[[LiveStats], None]
"""Called whenever something arrived."""


async def talk(
    client: AvatarClient,
    image: bytes,
    options: SessionOptions,
    pieces: Pieces,
    out: Path | Movie | None,
    watch: Watch,
    *,
    resume: bool = True,
) -> LiveStats:
    """Speaks ``pieces`` live as ``image``; the video goes to ``out``, an MP4 file, where that is given.

    A movie that is open already is finished here and closed by the caller.  ``resume`` is that of ``Session.stream``.

    Raises:
        ValueError: the speech cannot be read.
        OSError: the file cannot be written.
        AvatarError: the gateway refused, failed or is not there.
    """
    with Movie(out) if isinstance(out, Path) else nullcontext(out) as movie:
        session = await client.create_session(image, options)
        if movie is not None:
            movie.facts = session.facts
        try:
            async with live_stream(session, resume=resume) as stream:
                seen = await _talk(stream, pieces, movie, watch)
        finally:
            with suppress(AvatarError):  # a gateway that is gone frees it by itself
                await session.close()
        if movie is not None:
            if not seen.video_s:
                raise ValueError("the speech is too short for a single frame")
            await movie.finish()
        return seen


async def _talk(stream: LiveStream, pieces: Pieces, movie: Movie | None, watch: Watch) -> LiveStats:
    talking = _Talking(stream, watch)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(talking.speak(pieces))
            await talking.watch_all(movie)
    except* (AvatarError, ValueError, OSError) as group:
        error = group.exceptions[0]
    else:
        return talking.stats
    raise error


class _Talking:
    """One conversation."""

    def __init__(self, stream: LiveStream, watch: Watch) -> None:
        self.stats = LiveStats()
        self._stream = stream
        self._watch = watch
        self._asked_s: list[float] = []
        """When utterances began that nobody has seen yet."""

    async def speak(self, pieces: Pieces) -> None:
        """Sends the speech as it comes, then says that nothing follows."""
        speaking = False
        async for piece in pieces:
            if not piece:
                await self._stream.end_utterance()
                speaking = False
                continue
            if not speaking:
                self._asked_s.append(time.monotonic())
                speaking = True
            await self._stream.send_audio(piece)
        await self._stream.end()

    async def watch_all(self, movie: Movie | None) -> None:
        """Takes everything that comes, to the end; the video goes to ``movie``."""
        async for result in self._stream:
            if isinstance(result, VideoUnit):
                if movie is not None:
                    await movie.append(result.data)
                self._see(result)
            elif isinstance(result, Event):
                self._receive_event(result)
            if (sentence := describe_break(result)) is not None:
                self.stats.breaks.append(sentence)
            self._watch(self.stats)

    def _see(self, unit: VideoUnit) -> None:
        now_s, seen, clock = time.monotonic(), self.stats, self._stream.clock
        seen.video_s = max(seen.video_s, unit.end_ns / 1e9)
        seen.lead_s, seen.late_frames, seen.stalled_s = clock.lead_s(now_s), clock.late_frames, clock.stalled_s
        seen.slowest = max(unit.timings, key=_spent_s, default=seen.slowest)

    def _receive_event(self, event: Event) -> None:
        self.stats.events.append(event.kind)
        if event.kind == "UTTERANCE_STARTED" and self._asked_s:
            self.stats.reactions_s.append(time.monotonic() - self._asked_s.pop(0))
        if event.kind in (DEGRADED, RECOVERED):
            self.stats.note_state(event)
        if event.kind == DISCLOSURE:
            self.stats.disclosure = event.text
        if event.kind == WARNING and event.warning is not None:
            self.stats.warnings.append(event.warning)


def _spent_s(timing: BlockTiming) -> float:
    return timing.queue_s + timing.compute_s + timing.encode_s + timing.hop_s
