"""The parameters that a session gets where its client leaves them open.

Knows the public API's config and the pipeline's preset; sends nothing.
"""

from live_avatar.config import Preset
from live_avatar.limits import MAX_UPSCALE_FACTOR
from live_avatar.services.gateway.limits import COMFORTABLE_SIDE, LARGEST_SIDE
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat


def negotiated(config: api.SessionConfig, size: tuple[int, int], preset: Preset) -> api.SessionConfig:
    """A config with every default filled in."""
    result = api.SessionConfig()
    result.CopyFrom(config)
    result.delivery = config.delivery or api.DELIVERY_OFFLINE
    live = result.delivery == api.DELIVERY_LIVE
    result.listening = config.listening or (api.LISTENING_STREAMING if live else api.LISTENING_WHOLE_FILE)
    result.fit = config.fit or api.FIT_COVER
    result.video.encoding = config.video.encoding or VideoFormat.ENCODING_FMP4
    result.video.enlargement = _upscale_factor(result.video, size)
    result.video.width, result.video.height = (side * result.video.enlargement for side in size)
    result.video.frames_per_second = preset.stream.fps
    return result


def _upscale_factor(video: VideoFormat, size: tuple[int, int]) -> int:
    """How many times larger pictures of ``size`` are sent: as often as asked for, while there is room."""
    if video.encoding == VideoFormat.ENCODING_RAW_RGB24:
        return 1
    wanted = video.enlargement or min(MAX_UPSCALE_FACTOR, COMFORTABLE_SIDE // min(size))
    return max(1, min(wanted, LARGEST_SIDE // max(size)))
