"""Encodes frames of a session as H.264 access units, or as raw RGB.

One encoder per session.  Every block begins with an IDR frame that carries its parameter sets, so that a viewer can
begin at any block.  Every picture leaves at once: no B frames, no look-ahead, one thread, hence the same bytes for
the same pictures.  Knows nothing of tensors, sessions or containers.

Letters: T frames, H and W pixels.
"""

from fractions import Fraction
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from live_avatar.config import Preset
from live_avatar.limits import MAX_BITRATE_KBPS, MAX_UPSCALE_FACTOR
from live_avatar.pipeline.v1.blocks_pb2 import VideoProfile

Pixels = npt.NDArray[np.uint8]

PIXEL_MULTIPLE = 2
"""Sides of a picture are multiples of this: colour has half the resolution."""
DEFAULT_BITRATE_KBPS = 4_000
_QUALITY = "18"
"""Constant rate factor: visually close to lossless where the bitrate allows."""
_ENDLESS = 1_000_000
"""Frames between key frames that the encoder would set by itself: never before we ask."""


class VideoEncoder(Protocol):
    """Turns the pictures of one session into what is sent."""

    def encode(self, pixels: Pixels, *, starts_block: bool) -> list[bytes]:
        """One piece of bytes per picture of ``pixels`` [T, H, W, 3]."""
        ...


class RawEncoder:
    """RGB24, row by row."""

    def encode(self, pixels: Pixels, *, starts_block: bool) -> list[bytes]:
        """See ``VideoEncoder``; H * W * 3 bytes per picture."""
        return [picture.tobytes() for picture in pixels]


class H264Encoder:
    """H.264 in Annex B form, one access unit per picture.

    ``width`` and ``height`` are those of the pictures to come; they are encoded ``upscale_factor`` times larger.
    """

    def __init__(
        self,
        width: int,
        height: int,
        fps: int,
        max_bitrate_kbps: int = DEFAULT_BITRATE_KBPS,
        upscale_factor: int = 1,
    ) -> None:
        if width % PIXEL_MULTIPLE or height % PIXEL_MULTIPLE or min(width, height) < PIXEL_MULTIPLE:
            raise ValueError(f"a picture of {width}x{height} cannot be encoded: sides must be even")
        if not 0 < max_bitrate_kbps <= MAX_BITRATE_KBPS:
            raise ValueError(f"max_bitrate_kbps={max_bitrate_kbps} is outside 1..{MAX_BITRATE_KBPS}")
        if not 1 <= upscale_factor <= MAX_UPSCALE_FACTOR:
            raise ValueError(f"enlargement={upscale_factor} is outside 1..{MAX_UPSCALE_FACTOR}")
        self._time_base = Fraction(1, fps)
        self._next = 0
        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = width * upscale_factor, height * upscale_factor, "yuv420p"
        codec.time_base, codec.framerate = self._time_base, Fraction(fps)
        codec.thread_count, codec.max_b_frames, codec.gop_size = 1, 0, _ENDLESS
        codec.colorspace, codec.color_primaries, codec.color_trc = (Colorspace.ITU709.value,) * 3
        codec.color_range = ColorRange.MPEG.value
        codec.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": _QUALITY,
            "maxrate": f"{max_bitrate_kbps}k",
            "bufsize": f"{max_bitrate_kbps}k",
            "forced-idr": "1",
            "sc_threshold": "0",
        }
        self._codec = codec
        self._interpolation = Interpolation.BICUBIC if upscale_factor > 1 else Interpolation.BILINEAR

    def encode(self, pixels: Pixels, *, starts_block: bool) -> list[bytes]:
        """See ``VideoEncoder``; the first picture becomes an IDR frame where ``starts_block``."""
        kinds = [PictureType.I if starts_block else PictureType.NONE] + [PictureType.NONE] * (len(pixels) - 1)
        return [self._encode_one(picture, kind) for picture, kind in zip(pixels, kinds, strict=True)]

    def _encode_one(self, picture: Pixels, kind: PictureType) -> bytes:
        rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = rgb.reformat(
            width=self._codec.width,
            height=self._codec.height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=self._interpolation,
        )
        frame.pts, frame.time_base, frame.pict_type = self._next, self._time_base, kind
        self._next += 1
        return b"".join(bytes(packet) for packet in self._codec.encode(frame))


def open_encoder(profile: VideoProfile, width: int, height: int, preset: Preset) -> VideoEncoder:
    """The encoder that ``profile`` asks for; a bitrate of 0 means the default.

    Raises:
        ValueError: no such encoding, or a size, bitrate or enlargement it does not serve.
    """
    if profile.encoding == VideoProfile.ENCODING_RAW_RGB24:
        return RawEncoder()
    if profile.encoding == VideoProfile.ENCODING_H264_ANNEXB:
        bitrate = profile.max_bitrate_kbps or DEFAULT_BITRATE_KBPS
        return H264Encoder(width, height, preset.stream.fps, bitrate, profile.enlargement or 1)
    raise ValueError(f"video encoding {profile.encoding} is not served")
