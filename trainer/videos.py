"""A folder of videos with sound as clips, and why some of them are none (AVSpeech style; spec 10.2).

PyAV decodes; pictures are cut to the size of the model and sound is brought to its rate.  Knows nothing of networks.

Letters: T frames, H and W pixels, N samples.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.model.portrait import fit_portrait
from trainer.clip import Clip
from trainer.marks import NO_MARKS, ClipError, Marks

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
SILENT_RMS = 0.001
"""Root mean square of sound that nobody hears (-60 dB of full scale)."""


class VideoFolder:
    """The videos of a folder, in the order of their names; a prompt may lie beside each as ``NAME.txt``."""

    def __init__(self, folder: Path, *, size: tuple[int, int], fps: int, prompt: str) -> None:
        """Lists the folder; ``size`` is (height, width) of the pictures, ``prompt`` for videos without one.

        Raises:
            ValueError: no video there.
        """
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not self.paths:
            raise ValueError(f"{folder}: no videos ({', '.join(SUFFIXES)})")
        self.folder, self.size, self.fps, self.prompt = folder, size, fps, prompt

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The video's path in the folder."""
        return str(self.paths[index].relative_to(self.folder))

    def read(self, index: int) -> Clip:
        """The video at ``index``.

        Raises:
            ClipError: unreadable, of another frame rate, without sound, or silent.
        """
        path = self.paths[index]
        beside = path.with_suffix(".txt")
        prompt = beside.read_text().strip() if beside.exists() else self.prompt
        frames, samples = read_video(path, self.size, self.fps)
        return Clip(name=self.name(index), frames=frames, samples=samples, prompt=prompt)

    def marks(self, clip: Clip) -> Marks:
        """Nothing but the clip itself."""
        return NO_MARKS


def read_video(path: Path, size: tuple[int, int], fps: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Frames [T, H, W, 3] and samples [T * rate / fps] of a video, cut or filled with silence to the same length.

    Raises:
        ClipError: unreadable, of another frame rate, without sound, or silent.
    """
    try:
        with av.open(str(path)) as container:
            _check_streams(container, fps)
            frames = np.stack([_fit(frame, size) for frame in container.decode(video=0)])
        with av.open(str(path)) as container:
            samples = _sound(container)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, ClipError):
            raise
        raise ClipError(f"unreadable: {error}") from error
    wanted = len(frames) * SAMPLE_RATE_HZ // fps
    samples = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
    if np.sqrt(np.mean(np.square(samples))) < SILENT_RMS:
        raise ClipError("silent")
    return frames, samples


def _check_streams(container: "av.container.InputContainer", fps: int) -> None:
    if not container.streams.video:
        raise ClipError("unreadable: no video in it")
    if not container.streams.audio:
        raise ClipError("silent: no sound in it")
    rate = container.streams.video[0].average_rate
    if rate != Fraction(fps):
        raise ClipError(f"frame rate {float(rate) if rate else 'unknown'}, not {fps}")


def _fit(frame: "av.VideoFrame", size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    return np.asarray(fit_portrait(picture, *size, "cover"), dtype=np.uint8)


def _sound(container: "av.container.InputContainer") -> npt.NDArray[np.float32]:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    parts = [part for frame in _with_end(container.decode(audio=0)) for part in resampler.resample(frame)]
    if not parts:
        raise ClipError("silent: no sound in it")
    return np.concatenate([part.to_ndarray()[0] for part in parts]).astype(np.float32)


def _with_end(frames: Iterator["av.AudioFrame"]) -> Iterator["av.AudioFrame | None"]:
    """``frames``, and None to draw the last samples out of a resampler."""
    yield from frames
    yield None
