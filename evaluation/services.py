"""A row that goes the way of every user: client, gateway and services, speech as a WAV file, video as an MP4 file.

Knows processes and files; nothing of networks.

Letters: T frames, H and W pixels, N samples.
"""

import asyncio
import io
import wave
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from PIL import Image

from evaluation.dataset import Segment, SessionVideo, Subject
from evaluation.frame_metrics import Frames
from evaluation.thresholds import OURS, SERVED
from evaluation.variants import Progress, Variant
from evaluation.windows import TimeWindow
from live_avatar.client import AvatarClient, GenerateStats, generate_file
from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.files import ffmpeg_name
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan
from live_avatar.streaming.resample import Samples


@dataclass(kw_only=True)
class Served:
    """A pipeline on this machine, started with the first video."""

    name: str
    about: str
    digest: str
    plan: Plan
    preset: Preset
    folder: Path
    """Where the files go."""
    furthest_s: float = 0.0
    running: ExitStack = field(default_factory=ExitStack)
    """Ends the services when it is left."""
    _gateway: str = ""

    def record(self, subject: Subject, spans: Sequence[TimeWindow], seed: int, progress: Progress) -> SessionVideo:
        """See ``Variant``.

        Raises:
            LaunchError: a service did not start.
            AvatarError: the session failed.
        """
        (span,) = spans
        if not self._gateway:
            self._gateway = self.running.enter_context(LocalPipeline(self.plan, lambda line: None)).gateway
        movie = self.folder / f"{subject.clip.name}.mp4"
        measured = asyncio.run(_made(self._gateway, subject, movie, seed))
        progress(span.blocks)
        hidden = self.preset.stream.dropped_frames
        frames = reduced(read_frames(movie), subject.portrait.shape[0])[: len(subject.clip.frames) - hidden]
        return SessionVideo((Segment(span, frames, hidden),), measured.frames_per_second)


@contextmanager
def served(weights: Path, preset_name: str, preset: Preset, rows: Iterable[Variant], out: Path) -> Iterator[Served]:
    """The row of four stages of one step each, which has the weights of ``OURS`` among ``rows``."""
    (digest,) = (row.digest for row in rows if row.name == OURS)
    logs = out / "logs" / "quality"
    row = Served(
        name=SERVED,
        about="`live-avatar generate`: four stages of one step each, gateway and decoder as processes; the whole "
        "recording is encoded at once; the frames are those of the MP4 file",
        digest=digest,
        plan=Plan(layout=parse_layout("4x1"), preset=preset_name, weights=weights.absolute(), logs=logs),
        preset=preset,
        folder=out / "quality" / "videos",
    )
    with row.running:
        yield row


async def _made(gateway: str, subject: Subject, movie: Path, seed: int) -> GenerateStats:
    sound = movie.with_suffix(".wav")
    movie.parent.mkdir(parents=True, exist_ok=True)
    write_wav(sound, subject.clip.samples)
    image = io.BytesIO()
    Image.fromarray(subject.portrait).save(image, "PNG")
    async with AvatarClient(gateway) as client:
        return await generate_file(client, image.getvalue(), sound, movie, prompt=subject.clip.prompt, seed=seed)


def write_wav(path: Path, samples: Samples) -> None:
    """Writes ``samples`` [N] in -1..1 as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((samples * 32_767).round().astype("<i2").tobytes())


def reduced(frames: Frames, height: int) -> Frames:
    """``frames`` of a video at the size of generation again: each pixel from the middle of those it was enlarged to.

    The mean of all would blur: what lies at the edge of a pixel belongs half to its neighbour.
    """
    times = frames.shape[1] // height
    parts = frames.reshape(len(frames), height, times, frames.shape[2] // times, times, frames.shape[3])
    middle = slice((times - 1) // 2, times // 2 + 1)
    small: Frames = parts[:, :, middle, :, middle].mean(axis=(2, 4)).round().astype(np.uint8)
    return small


def read_frames(path: Path) -> Frames:
    """All pictures [T, H, W, 3] of a video."""
    with av.open(ffmpeg_name(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
