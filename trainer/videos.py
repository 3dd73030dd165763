"""A folder of videos with sound as clips, and why some of them are none (AVSpeech style; spec 10.2).

PyAV decodes; frames are cut to the size of the model and brought to its rate, and so is the sound.  Knows nothing of
networks.

Letters: T frames, H and W pixels, N samples.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.files import ffmpeg_name
from live_avatar.portrait.fitting import fit_portrait
from live_avatar.trainer.annotations import NO_ANNOTATIONS, ClipAnnotations, ClipError
from live_avatar.trainer.clip import Clip

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
SILENT_RMS = 0.001
"""Root mean square of inaudible sound (-60 dB of full scale)."""
LEAST_FPS = 12
"""Frames per second below which mouths jump."""
LONGEST_STILL_S = 1.0
"""Longest time between two frames of one clip."""


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
            ClipError: see ``read_video``.
        """
        path = self.paths[index]
        beside = path.with_suffix(".txt")
        prompt = beside.read_text().strip() if beside.exists() else self.prompt
        frames, samples = read_video(path, self.size, self.fps)
        return Clip(name=self.name(index), frames=frames, samples=samples, prompt=prompt)

    def annotations(self, clip: Clip) -> ClipAnnotations:
        """Nothing but the clip itself."""
        return NO_ANNOTATIONS


def read_video(path: Path, size: tuple[int, int], fps: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Frames [T, H, W, 3] and samples [T * rate / fps] of a video, cut or filled with silence to the same length.

    Videos of another frame rate, or of a changing one, are resampled in time: each frame is the one whose time is
    nearest.  Sound that begins earlier or later than the frames stays where it is.

    Raises:
        ClipError: unreadable, too few frames per second to see speech, without sound, or silent.
    """
    try:
        with av.open(ffmpeg_name(path)) as container:
            _check_streams(container)
            timed = _timed_frames(container)
            first, begins_s = next(timed)
            shown = _resampled(itertools.chain([(first, begins_s)], timed), fps)
            frames = np.stack([_fit(frame, size) for frame in shown])
        with av.open(ffmpeg_name(path)) as container:
            samples = _sound(container, begins_s)
    except (av.error.FFmpegError, OSError, ValueError, StopIteration) as error:
        if isinstance(error, ClipError):
            raise
        raise ClipError(f"unreadable: {error or 'no frame in it'}") from error
    wanted = len(frames) * SAMPLE_RATE_HZ // fps
    samples = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
    if np.sqrt(np.mean(np.square(samples))) < SILENT_RMS:
        raise ClipError("silent")
    return frames, samples


def _check_streams(container: "av.container.InputContainer") -> None:
    if not container.streams.video:
        raise ClipError("unreadable: no video in it")
    if not container.streams.audio:
        raise ClipError("silent: no sound in it")
    rate = container.streams.video[0].average_rate
    if rate is not None and rate < LEAST_FPS:
        raise ClipError(f"frame rate {float(rate):.4g}, at least {LEAST_FPS} are needed to see speech")


def _timed_frames(container: "av.container.InputContainer") -> Iterator[tuple["av.VideoFrame", float]]:
    """Frames with their times in seconds; those that go back in time are left out.

    Raises:
        ClipError: the file does not say when its frames are shown, or nothing is shown for too long.
    """
    rate, before_s = container.streams.video[0].average_rate, None
    for number, frame in enumerate(container.decode(video=0)):
        time_s = frame.time if frame.time is not None else number / float(rate) if rate else None
        if time_s is None:
            raise ClipError("unreadable: no time of its frames in it")
        if before_s is not None and time_s <= before_s:
            continue
        if before_s is not None and time_s - before_s > LONGEST_STILL_S:
            raise ClipError(f"no frame for {time_s - before_s:.1f} s, {before_s:.1f} s from its beginning")
        before_s = time_s
        yield frame, time_s


def _resampled(timed: Iterator[tuple["av.VideoFrame", float]], fps: int) -> Iterator["av.VideoFrame"]:
    """For every ``1 / fps`` seconds from the first frame on, the frame whose time is nearest."""
    frame, begins_s = next(timed)
    time_s, last_s, count = 0.0, 1 / fps, 0
    for following, at_s in timed:
        last_s = at_s - begins_s - time_s
        while count / fps <= time_s + last_s / 2:
            yield frame
            count += 1
        frame, time_s = following, at_s - begins_s
    # The last frame is shown for as long as the one before it.
    while count == 0 or count / fps <= time_s + last_s - 1 / fps / 2:
        yield frame
        count += 1


def _fit(frame: "av.VideoFrame", size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The frame [H, W, 3] upright, in ``size``; telephones store how they were held instead of turning the frames."""
    picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    if frame.rotation:
        picture = picture.rotate(frame.rotation, expand=True)
    return np.asarray(fit_portrait(picture, *size, "cover"), dtype=np.uint8)


def _sound(container: "av.container.InputContainer", begins_s: float) -> npt.NDArray[np.float32]:
    """Samples [N] from ``begins_s`` on, in seconds of the file's own clock; silence where the sound begins later."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    frames = iter(container.decode(audio=0))
    first = next(frames, None)
    if first is None:
        raise ClipError("silent: no sound in it")
    late = round(((first.time or 0.0) - begins_s) * SAMPLE_RATE_HZ)
    parts = [part for frame in _with_end(itertools.chain([first], frames)) for part in resampler.resample(frame)]
    samples = np.concatenate([part.to_ndarray()[0] for part in parts]).astype(np.float32)
    return np.pad(samples, (late, 0)) if late > 0 else samples[-late:]


def _with_end(frames: Iterator["av.AudioFrame"]) -> Iterator["av.AudioFrame | None"]:
    """``frames``, and None to draw the last samples out of a resampler."""
    yield from frames
    yield None
