"""Frames with and without a mark, for tests."""

import numpy as np
import numpy.typing as npt
import torch

from live_avatar.watermark.carrier import carrier_of
from live_avatar.watermark.embedding import Clock, Marker
from live_avatar.watermark.payload import session_number

KEY = b"a secret of thirty-two bytes ..."
SESSION_ID = "session-1"
DEPLOYMENT = 0xABCDEF
CLOCK = Clock(fps=25, frames_per_block=12, dropped_frames=3)
Pixels = npt.NDArray[np.uint8]


def marker(key: bytes = KEY) -> Marker:
    session = session_number(SESSION_ID)
    return Marker(carrier_of(key), CLOCK, deployment=DEPLOYMENT, session=session, device=torch.device("cpu"))


def portrait(height: int, width: int, frames: int) -> Pixels:
    """Something with a smooth background, sharp edges, and a part that moves: [T, H, W, 3]."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:height, :width] / min(height, width)
    face = 90.0 * (np.hypot(down - 0.5, across - 0.5) < 0.3) + 60 + 30 * across
    grain = rng.normal(0, 3, (height, width))
    clip = []
    for time in range(frames):
        mouth = np.hypot((down - 0.62) * (3 + np.sin(time)), across - 0.5) < 0.08
        clip.append(np.where(mouth, 40, face + grain))
    return np.repeat(np.stack(clip)[..., None], 3, axis=3).clip(0, 255).astype(np.uint8)


def marked(clip: Pixels, first: int = 0, key: bytes = KEY) -> Pixels:
    """Marks a clip whose first frame is number ``first`` of the output, latent by latent."""
    made, pieces, at = marker(key), [], 0
    while at < len(clip):
        following = at + 4 - (first + at + CLOCK.dropped_frames) % 4
        pieces.append(made.mark(torch.from_numpy(clip[at:following].copy()), first + at).numpy())
        at = following
    return np.concatenate(pieces)
