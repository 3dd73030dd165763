"""Small videos with sound, made for tests."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_counting_video(
    path: Path, times_s: list[float], *, audio_from_s: float = 0.0, audio_rate_hz: int = 48_000
) -> Path:
    """A video whose frames are ever brighter and shown from ``times_s`` on, with a tone from ``audio_from_s`` on."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=30)
        video.width, video.height, video.pix_fmt, video.bit_rate = 64, 64, "yuv420p", 4_000_000
        video.codec_context.time_base = Fraction(1, 3000)
        audio = container.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=audio_rate_hz, layout="mono")
        for number, time_s in enumerate(times_s):
            level = brightness(number, len(times_s))
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 3000), Fraction(1, 3000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = tone(round((times_s[-1] - audio_from_s) * audio_rate_hz), 0.3)
        sound.pts, sound.time_base = round(audio_from_s * audio_rate_hz), Fraction(1, audio_rate_hz)
        container.mux(audio.encode(av.AudioResampler("s16").resample(sound)[0] if path.suffix == ".mkv" else sound))
        container.mux(audio.encode(None))
    return path


def brightness(number: int, count: int) -> int:
    """Grey level of frame ``number`` of ``write_counting_video``."""
    return 20 + 215 * number // count


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
            container.mux(audio.encode(tone(frames * 48_000 // fps, float(sound or 0))))
            container.mux(audio.encode(None))
    return path


def tone(samples: int, amplitude: float = 0.3) -> av.AudioFrame:
    """Samples of a tone at 48 kHz."""
    wave = amplitude * np.sin(np.arange(samples) * 2 * np.pi * 220 / 48_000)
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate = 48_000
    return frame
