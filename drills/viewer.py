"""A client that speaks to a live session and keeps what came, when, and through which disturbances.

Uses the client library alone, which resumes a stream that broke by itself.
"""

import asyncio
import hashlib
import time
import uuid
from dataclasses import dataclass, field
from itertools import pairwise

import grpc
import numpy as np

from live_avatar.cli.inputs import PORTRAIT
from live_avatar.client import (
    AudioUnit,
    AvatarClient,
    AvatarError,
    Event,
    Session,
    SessionOptions,
    StreamLost,
    StreamResumed,
    VideoUnit,
    live_stream,
)
from live_avatar.client.live import LiveStream
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from tests.system.harness.recordings import Recording
from tests.system.harness.reference import Script

CREATE_S = 60.0
"""How long a session is tried to be created while processes are lost."""
END_S = 240.0
"""Longest wait beyond the time of a session's speech."""
PROMPT = "a person talks"
NOTICED_S = 1.0
"""A longer time between two frames is a gap; without any disturbance a block comes each half second."""
_SAMPLE_BYTES = 4
_PAUSE_S = 0.3


def recording(blocks: int, seed: int) -> Recording:
    """What a session of ``blocks`` blocks is fed."""
    speech = Script(blocks=blocks, voice=seed).samples(TINY)
    return Recording(
        face=PORTRAIT.read_bytes(), speech=speech.tobytes(), blocks=blocks, seed=seed, prompt=PROMPT, streaming=True
    )


def digest(frame: bytes) -> bytes:
    """Stands for a frame: two are equal where these are."""
    return hashlib.blake2b(frame, digest_size=16).digest()


@dataclass
class Viewer:
    """One session, from its creation to its end."""

    recording: Recording
    session_id: str = ""
    frames: list[bytes] = field(default_factory=list)
    """Digest of each frame, in the order of the video."""
    arrivals: list[float] = field(default_factory=list)
    """Of each frame, on the monotonic clock."""
    speech: bytearray = field(default_factory=bytearray)
    moved: list[int] = field(default_factory=list)
    """First blocks after each discontinuity."""
    causes: list[str] = field(default_factory=list)
    """Of each discontinuity."""
    lost: list[AvatarError] = field(default_factory=list)
    """Why the stream broke, each time."""
    disturbed: list[float] = field(default_factory=list)
    """When the stream broke or a discontinuity came."""
    resumed_s: list[float] = field(default_factory=list)
    """For how long there was no stream."""
    repeated: int = 0
    """Frames and pieces of speech that came again."""
    missing: int = 0
    """Those before which something did not come."""
    failure: Exception | None = None
    ended: bool = False

    @property
    def blocks(self) -> int:
        """Blocks that came as a whole."""
        return (len(self.frames) + TINY.stream.dropped_frames) // TINY.frames_per_block

    @property
    def is_lost(self) -> bool:
        """The session ended before its speech."""
        return self.failure is not None or self.blocks < self.recording.blocks

    def describe(self) -> str:
        """What went wrong, in one line."""
        came = f"{self.blocks} of {self.recording.blocks} blocks, {self.repeated} repeated, {self.missing} missing"
        lost = f"{self.samples_lost} samples lost, moved at {list(zip(self.moved, self.causes, strict=True))}"
        return f"session {self.session_id}: {came}, {lost}, ended by {self.failure}"

    @property
    def samples_lost(self) -> int:
        """Samples of the speech that did not come back as they were sent, each in its place."""
        sent = np.frombuffer(self.recording.speech, np.float32)
        received = np.frombuffer(bytes(self.speech), np.float32)[: sent.size]
        wrong = int(np.count_nonzero(received != sent[: received.size]))
        return wrong + sent.size - received.size

    async def watch(self, target: str, *, resume: bool = True) -> None:
        """A whole session through ``target``; what goes wrong is kept in ``failure``."""
        spoken_s = self.recording.blocks * TINY.samples_per_block / SAMPLE_RATE_HZ
        try:
            async with asyncio.timeout(spoken_s + END_S), AvatarClient(target) as client:
                session = await self._create(client)
                async with live_stream(session, resume=resume) as stream:
                    await self._converse(stream)
        except (AvatarError, TimeoutError) as error:
            self.failure = error
        finally:
            self.ended = True

    async def _create(self, client: AvatarClient) -> Session:
        """Creates the session, in several attempts where processes are being lost."""
        options = SessionOptions(
            sample_rate_hz=SAMPLE_RATE_HZ,
            sample_format="f32",
            video="rgb24",
            delivery="live",
            seed=self.recording.seed,
            prompt=self.recording.prompt,
        )
        deadline, name = time.monotonic() + CREATE_S, str(uuid.uuid4())
        while True:
            try:
                session = await client.create_session(self.recording.face, options, request_id=name)
            except AvatarError as error:
                if error.code is grpc.StatusCode.INVALID_ARGUMENT or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                self.session_id = session.session_id
                return session

    async def _converse(self, stream: LiveStream) -> None:
        sending = asyncio.create_task(self._speak(stream))
        try:
            async for result in stream:
                self._take(result)
            await sending
        finally:
            sending.cancel()
            await asyncio.wait({sending})

    async def _speak(self, stream: LiveStream) -> None:
        await stream.send_audio(self.recording.speech)
        await stream.end()

    def _take(self, result: object) -> None:
        match result:
            case VideoUnit():
                self._place(result.first_frame, len(self.frames))
                self.frames.append(digest(result.data))
                self.arrivals.append(time.monotonic())
            case AudioUnit():
                expected_ns = len(self.speech) // _SAMPLE_BYTES * 1_000_000_000 // SAMPLE_RATE_HZ
                self._place(result.start_ns, expected_ns)
                self.speech += result.data
            case Event(kind="DISCONTINUITY"):
                self.disturbed.append(time.monotonic())
                self.moved.append(result.block_index)
                self.causes.append(result.warning.reason if result.warning else "")
            case StreamLost():
                self.disturbed.append(time.monotonic())
                self.lost.append(result.cause)
            case StreamResumed():
                self.resumed_s.append(result.after_s)

    def _place(self, at: int, expected: int) -> None:
        self.repeated += at < expected
        self.missing += at > expected

    def gap_s(self, since: float, until: float) -> float | None:
        """The longest time without a frame that a disturbance between two moments made; None where it made none."""
        ends = [at for at in self.arrivals if since <= at <= until]
        before = [at for at in self.arrivals if at < since][-1:]
        longest = max((after - first for first, after in pairwise([*before, *ends])), default=0.0)
        disturbed = any(since <= at <= until for at in self.disturbed)
        return longest if disturbed or longest > NOTICED_S else None
