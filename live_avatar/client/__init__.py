"""Client of a Live Avatar gateway: portrait and speech in, video out.

Needs the extra ``client`` alone; never torch.
"""

from live_avatar.client.admin import AdminClient, ApiKeyInfo
from live_avatar.client.client import AvatarClient, Session
from live_avatar.client.errors import AvatarError
from live_avatar.client.generate import GenerateOptions, GenerateStats, ServiceTimes, generate_file
from live_avatar.client.live import LiveStream, live_stream
from live_avatar.client.options import SessionOptions
from live_avatar.client.results import (
    AudioUnit,
    BlockTiming,
    Event,
    GoAway,
    Interruption,
    Limits,
    Result,
    ServerInfo,
    StreamLost,
    StreamResumed,
    VideoUnit,
)
from live_avatar.client.stream import AvatarStream
from live_avatar.client.talk import LiveStats, talk

__all__ = [
    "AdminClient",
    "ApiKeyInfo",
    "AudioUnit",
    "AvatarClient",
    "AvatarError",
    "AvatarStream",
    "BlockTiming",
    "Event",
    "GenerateOptions",
    "GenerateStats",
    "GoAway",
    "Interruption",
    "Limits",
    "LiveStats",
    "LiveStream",
    "Result",
    "ServerInfo",
    "ServiceTimes",
    "Session",
    "SessionOptions",
    "StreamLost",
    "StreamResumed",
    "VideoUnit",
    "generate_file",
    "live_stream",
    "talk",
]
