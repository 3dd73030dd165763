"""What a session is made with."""

from dataclasses import dataclass
from typing import Literal

from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import AudioFormat, VideoFormat

SampleFormat = Literal["s16", "f32"]
Video = Literal["fmp4", "h264", "rgb24"]
Listening = Literal["streaming", "whole_file"]
Delivery = Literal["offline", "live"]
Fit = Literal["cover", "reference"]

SAMPLE_BYTES = {"s16": 2, "f32": 4}
_SAMPLES = {"s16": AudioFormat.ENCODING_PCM_S16LE, "f32": AudioFormat.ENCODING_PCM_F32LE}
_VIDEOS = {
    "fmp4": VideoFormat.ENCODING_FMP4,
    "h264": VideoFormat.ENCODING_H264_ANNEXB,
    "rgb24": VideoFormat.ENCODING_RAW_RGB24,
}
_DELIVERIES = {"offline": api.DELIVERY_OFFLINE, "live": api.DELIVERY_LIVE}
_LISTENINGS = {"streaming": api.LISTENING_STREAMING, "whole_file": api.LISTENING_WHOLE_FILE}
_FITS = {"cover": api.FIT_COVER, "reference": api.FIT_REFERENCE}


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Parameters of a session; all but the rate of the speech have defaults."""

    sample_rate_hz: int
    sample_format: SampleFormat = "s16"
    """Little-endian samples of one channel: 16-bit integers, or floats in [-1, 1]."""
    prompt: str = ""
    seed: int = 0
    video: Video = "fmp4"
    """``fmp4``: pieces of an MP4 file with the speech; ``h264`` and ``rgb24``: pictures, the speech beside them."""
    listening: Listening = "streaming"
    """``whole_file``: all speech is encoded before the first block."""
    delivery: Delivery = "offline"
    """``live``: video at the pace of playback, idle where nobody speaks; needs streaming listening."""
    fit: Fit = "cover"
    max_bitrate_kbps: int = 0
    """0: the server decides."""
    enlargement: int = 0
    """How many times larger than generated the pictures of ``fmp4`` and ``h264`` are, 1 to 8; 0: the server decides."""

    def to_message(self) -> api.SessionConfig:
        """As the gateway reads it."""
        return api.SessionConfig(
            prompt=self.prompt,
            seed=self.seed,
            audio=AudioFormat(
                encoding=_SAMPLES[self.sample_format], sample_rate_hz=self.sample_rate_hz, channel_count=1
            ),
            video=VideoFormat(
                encoding=_VIDEOS[self.video],
                max_bitrate_kbps=self.max_bitrate_kbps,
                enlargement=self.enlargement,
            ),
            delivery=_DELIVERIES[self.delivery],
            listening=_LISTENINGS[self.listening],
            fit=_FITS[self.fit],
        )
