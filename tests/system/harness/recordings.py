"""The pictures of a session, by the library's loop alone.

Knows networks; knows no process and no message.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.portrait.fitting import fit_portrait

from .reference import SIDE, Script, System

STEPS = 4


@dataclass(frozen=True, kw_only=True)
class Recording(Script):
    """A session that is fed a given portrait and given speech."""

    face: bytes
    """An image file."""
    speech: bytes
    """32-bit floats at the model's rate."""

    def pixels(self) -> NDArray[np.uint8]:
        """The portrait, upright and cut to the picture's size [H, W, 3]."""
        with Image.open(io.BytesIO(self.face)) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.array(fit_portrait(upright, self.height, self.width, "cover"))

    def samples(self, preset: Preset) -> NDArray[np.float32]:
        """The speech."""
        return np.frombuffer(self.speech, np.float32).copy()


def movie_of(system: System, recording: Recording) -> NDArray[np.uint8]:
    """Pictures [N, H, W, 3] of a session, as many as lie within its speech."""
    rules = system.preset.stream
    pictures = [frames.pixels for one in system.solo(recording, STEPS) for frames in one.frames]
    spoken = -(-recording.samples(system.preset).size * rules.fps // SAMPLE_RATE_HZ) - rules.dropped_frames
    movie: NDArray[np.uint8] = torch.cat(pictures)[:spoken].numpy()
    assert movie.shape[1:] == (SIDE, SIDE, 3)
    return movie
