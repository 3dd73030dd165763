"""What is done to marked video: the ways in which others cut, scale and encode it.

Each attack decodes the served video, changes it, and encodes it once more with x264 (preset medium, CRF 20 where
nothing else is said), as sites and editors do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from evaluation.frame_metrics import Frames
from live_avatar.services.vae_decoder.h264 import H264Encoder
from live_avatar.trainer.clip import FPS
from live_avatar.watermark.embedding import Clock

FrameList = list[av.VideoFrame]
CROP, BRIGHTER, LIGHTER = 0.1, 1.15, 10
"""Share of width and height that is cut off; factor and grey levels of brightness."""
_QUALITY = {"crf": "20"}


@dataclass(frozen=True)
class Video:
    """Decoded frames at a constant rate."""

    frames: FrameList
    fps: int = FPS


def serve(pixels: Frames, clock: Clock, enlarged: int) -> FrameList:
    """Encodes frames [T, H, W, 3] as the decoder service does, by default settings, and decodes them."""
    height, width = pixels.shape[1:3]
    encoder = H264Encoder(width, height, clock.fps, upscale_factor=enlarged)
    reader = av.CodecContext.create("h264", "r")
    frames: FrameList = []
    first, following = 0, clock.frames_per_block - clock.dropped_frames
    while first < len(pixels):
        for packet in encoder.encode(pixels[first:following], starts_block=True):
            frames += reader.decode(av.Packet(packet))
        first, following = following, following + clock.frames_per_block
    return frames + reader.decode(None)


def _encoded(video: Video, options: Mapping[str, str], scale: float = 1.0) -> Video:
    width, height = (round(side * scale) // 2 * 2 for side in (video.frames[0].width, video.frames[0].height))
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.thread_count = width, height, "yuv420p", 1
    codec.time_base, codec.framerate = Fraction(1, video.fps), Fraction(video.fps)
    codec.options = {"preset": "medium", **options}
    packets = []
    for number, frame in enumerate(video.frames):
        changed = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
        changed.pts, changed.time_base, changed.pict_type = number, codec.time_base, 0
        packets += codec.encode(changed)
    packets += codec.encode(None)
    reader = av.CodecContext.create("h264", "r")
    decoded = [frame for packet in packets for frame in reader.decode(packet)]
    return Video(decoded + reader.decode(None), video.fps)


def _cropped(frame: av.VideoFrame) -> av.VideoFrame:
    pixels = _pixels(frame)
    height, width = (round(side * (1 - CROP)) // 2 * 2 for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 3, 2 * (pixels.shape[1] - width) // 3
    return _frame(pixels[top : top + height, left : left + width])


def _brightened(frame: av.VideoFrame) -> av.VideoFrame:
    return _frame((_pixels(frame) * BRIGHTER + LIGHTER).clip(0, 255).astype(np.uint8))


def _pixels(frame: av.VideoFrame) -> Frames:
    return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def _frame(pixels: Frames) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")


def _resampled(video: Video) -> Video:
    """The same time in 30 frames a second: every fifth frame is shown twice."""
    count = len(video.frames) * 30 // video.fps
    return Video([video.frames[number * video.fps // 30] for number in range(count)], 30)


def _each(change: Callable[[av.VideoFrame], av.VideoFrame]) -> Callable[[Video], Video]:
    return lambda video: _encoded(Video([change(frame) for frame in video.frames], video.fps), _QUALITY)


_RATE = {"b": "300k", "maxrate": "300k", "bufsize": "600k"}
ATTACKS: Mapping[str, Callable[[Video], Video]] = {
    "as served": lambda video: video,
    "CRF 28": lambda video: _encoded(video, {"crf": "28"}),
    "300 kbit/s": lambda video: _encoded(video, _RATE),
    "scaled by 0.5": lambda video: _encoded(video, _QUALITY, 0.5),
    "scaled by 1.5": lambda video: _encoded(video, _QUALITY, 1.5),
    "cropped by 10 %": _each(_cropped),
    "25 to 30 fps, same time": lambda video: _encoded(_resampled(video), _QUALITY),
    "25 to 30 fps, faster": lambda video: _encoded(Video(video.frames, 30), _QUALITY),
    "brighter": _each(_brightened),
}
