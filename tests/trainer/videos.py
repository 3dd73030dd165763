"""Small videos with sound, made for tests."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, *, frames: int = 70, fps: int = 25, sound: float | None = 0.3, seed: int = 0) -> Path:
    """A video of moving noise; ``sound`` is the amplitude of a tone, None for no sound at all."""
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=Fraction(fps))
        video.width, video.height, video.pix_fmt = 96, 80, "yuv420p"
        audio = None if sound is None else container.add_stream("aac", rate=48_000, layout="mono")
        for _ in range(frames):
            picture = random.integers(0, 255, (80, 96, 3), dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(_tone(frames * 48_000 // fps, float(sound or 0))))
            container.mux(audio.encode(None))
    return path


def _tone(samples: int, amplitude: float) -> av.AudioFrame:
    wave = amplitude * np.sin(np.arange(samples) * 2 * np.pi * 220 / 48_000)
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate = 48_000
    return frame
