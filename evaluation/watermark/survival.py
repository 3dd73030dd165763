"""Marks clips, attacks them, and counts what the detector still reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from evaluation.frame_metrics import Frames
from evaluation.watermark.attacks import ATTACKS, FrameList, Video, serve
from evaluation.watermark.clips import Source
from live_avatar.config import TINY
from live_avatar.watermark.carrier import carrier_of
from live_avatar.watermark.detection import THRESHOLD, WINDOW_S, Detection, Detector, Planes
from live_avatar.watermark.embedding import Clock, Marker
from live_avatar.watermark.payload import Payload
from live_avatar.watermark.video import plane

CLOCK = Clock(fps=TINY.stream.fps, frames_per_block=TINY.frames_per_block, dropped_frames=TINY.stream.dropped_frames)
WINDOW_FRAMES = round(WINDOW_S * CLOCK.fps)
_PIECE = 4
"""Frames that the decoder finishes together."""


@dataclass(frozen=True)
class Outcome:
    """One attack on one clip."""

    kind: str
    attack: str
    score: float
    right: bool
    """The payload was read, all 64 bits of it."""
    wrong: bool
    """Another payload was read."""


def marked(source: Source, key: bytes, payload: Payload) -> Frames:
    """The clip as the decoder service marks it, piece by piece."""
    marker = Marker(
        carrier_of(key), CLOCK, deployment=payload.deployment, session=payload.session, device=torch.device("cpu")
    )
    pieces, first = [], 0
    while first < len(source.frames):
        following = first + _PIECE - (first + CLOCK.dropped_frames) % _PIECE
        pieces.append(marker.mark(torch.from_numpy(source.frames[first:following].copy()), first).numpy())
        first = following
    return np.concatenate(pieces)


def window(source: Source, frames: Frames, rng: np.random.Generator) -> FrameList:
    """Two seconds of the served video, from a random frame on."""
    served = serve(frames, CLOCK, source.enlarged)
    first = int(rng.integers(0, len(served) - WINDOW_FRAMES + 1))
    return served[first : first + WINDOW_FRAMES]


def outcomes(source: Source, served: FrameList, detector: Detector, payload: Payload) -> Iterator[Outcome]:
    """What is read after every attack."""
    for name, attack in ATTACKS.items():
        found = detect(attack(Video(served)), detector)
        read = found.payload if found.score > THRESHOLD else None
        yield Outcome(source.kind, name, found.score, read == payload, read is not None and not _same(read, payload))


def detect(video: Video, detector: Detector) -> Detection:
    """Searches two seconds of a video."""
    return detector.detect(*grey(video))


def grey(video: Video) -> tuple[Planes, npt.NDArray[np.float64]]:
    """What the detector receives of a video."""
    frames = video.frames[: round(WINDOW_S * video.fps)]
    return np.stack([plane(frame) for frame in frames]), np.arange(len(frames)) / video.fps


def psnr_db(before: Frames, after: Frames) -> float:
    """Of the worst frame."""
    errors = ((before.astype(np.float32) - after) ** 2).mean(axis=(1, 2, 3))
    return float(10 * np.log10(255**2 / errors.max()))


def summary(results: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """By attack: share of clips read rightly, number read wrongly, scores."""
    table = {}
    for attack in dict.fromkeys(one.attack for one in results):
        rows = [one for one in results if one.attack == attack]
        table[attack] = {
            "clips": len(rows),
            "right": sum(one.right for one in rows) / len(rows),
            "wrong": sum(one.wrong for one in rows),
            "score_least": min(one.score for one in rows),
            "score_median": float(np.median([one.score for one in rows])),
        }
    return table


def _same(read: Payload, true: Payload) -> bool:
    """Whether nothing is wrong: a slot that could not be read is not."""
    return (read.deployment, read.session) == (true.deployment, true.session) and read.slot in (None, true.slot)
