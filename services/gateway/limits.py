"""The bounds on what clients send, as one table: settings, what is enforced, and what GetServerInfo publishes.

Plain data.
"""

from typing import ClassVar

from pydantic import Field

from live_avatar import limits as bounds
from live_avatar.portrait.limits import PortraitLimits
from live_avatar.serving.settings import Group
from live_avatar.v1.media_pb2 import AudioFormat

SAMPLE_BYTES = {AudioFormat.ENCODING_PCM_S16LE: 2, AudioFormat.ENCODING_PCM_F32LE: 4}
"""Bytes of one sample, for every encoding that is taken."""

LARGEST_SIDE = 1024
"""Pixels up to which pictures may be enlarged."""
COMFORTABLE_SIDE = 256
"""Pixels that the shorter side should have where H.264 halves the resolution of colour."""


class Limits(Group):
    """Bounds on what clients send and on how long anything waits for them; class variables cannot be set."""

    max_session_seconds: int = Field(
        default=12 * 3600, ge=1, description="longest duration of a session, and the default"
    )
    idle_timeout_seconds: int = Field(default=60, ge=1, description="a session ends after so long without activity")
    slow_consumer_seconds: int = Field(default=15, ge=1, description="how long finished video waits for its client")
    live_idle_seconds: int = Field(default=300, ge=1, description="a live session ends after so long without speech")
    live_slow_consumer_seconds: float = Field(
        default=2.0, gt=0, le=60, description="slow_consumer_seconds of live delivery"
    )
    max_live_audio_seconds: int = Field(default=120, ge=1, description="speech of a live session that may be queued")
    block_deadline_seconds: int = Field(default=60, ge=1, description="from the admission of a block to its frames")
    max_whole_file_seconds: int = Field(
        default=bounds.MAX_WHOLE_FILE_S,
        ge=1,
        description="longest recording that is encoded as a whole; the audio encoder has a bound of the same name",
    )
    max_unread_blocks: int = Field(
        default=0,
        ge=0,
        description="blocks of a session that may be in flight or unread; 0: one per service of the pipeline",
    )
    open_timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="a stream ends after so long without a first message"
    )
    max_unopened_streams: int = Field(default=64, ge=1, description="streams that may wait for their first message")
    max_calls_per_second: int = Field(
        default=100,
        ge=1,
        description="calls that one credential, or one address without any, may begin per second, streams included; "
        "those of two seconds at once after a pause; loopback without a credential is not limited",
    )
    max_calls_per_caller: int = Field(
        default=256,
        ge=1,
        description="calls of one credential, or of one address without any, that are in progress, without streams",
    )
    max_messages_per_second: int = Field(
        default=500, ge=50, description="rate at which the messages of one stream are read"
    )

    resume_seconds: float = Field(
        default=30.0,
        ge=0,
        le=600,
        description="a session that lost its client or its pipeline ends after so long without another; 0: at once",
    )
    max_replay_blocks: int = Field(
        default=16,
        ge=1,
        le=256,
        description="blocks that are sent again at most to a client whose stream broke",
    )
    max_recovery_point_bytes: int = Field(
        default=32 << 20,
        ge=1 << 16,
        description="what is stored of a live session at most, so that another gateway can go on with it",
    )
    max_losses_per_minute: int = Field(
        default=5, ge=1, le=60, description="a session that loses its pipeline more often ends"
    )

    max_message_bytes: ClassVar[int] = bounds.MAX_MESSAGE_BYTES
    max_image_bytes: ClassVar[int] = bounds.MAX_IMAGE_BYTES
    """What a message holds beside the image of the longest prompt and everything else."""
    max_image_pixels: ClassVar[int] = bounds.MAX_IMAGE_PIXELS
    max_prompt_characters: ClassVar[int] = bounds.MAX_PROMPT_CHARACTERS
    max_name_characters: ClassVar[int] = 128
    """Of request ids, utterance ids and page tokens."""
    max_audio_chunk_seconds: ClassVar[int] = 20
    min_sample_rate_hz: ClassVar[int] = bounds.MIN_RATE_HZ
    max_sample_rate_hz: ClassVar[int] = bounds.MAX_RATE_HZ
    max_video_credits: ClassVar[int] = 1_000
    max_bitrate_kbps: ClassVar[int] = bounds.MAX_BITRATE_KBPS
    max_queued_audio_seconds: ClassVar[int] = 30
    """Streamed speech that waits in the gateway before the client is read no further."""
    max_unread_bytes: ClassVar[int] = 1_000_000
    """Finished video of a live session that waits, where that is more than one block."""
    max_replay_bytes: ClassVar[int] = 8_000_000
    """Of what was sent and may be sent again, where that is more than one block."""
    message_burst: ClassVar[int] = 250
    """How many messages of a stream are taken at once after a pause."""

    @property
    def resume_ms(self) -> int:
        """``resume_seconds`` in milliseconds."""
        return round(1000 * self.resume_seconds)

    @property
    def point_kept_ms(self) -> int:
        """How long a recovery point is kept after it was written last: longer than any session waits."""
        longest_s = max(self.idle_timeout_seconds, self.live_idle_seconds, self.resume_seconds)
        return round(2_000 * longest_s) + 60_000

    @property
    def portrait(self) -> PortraitLimits:
        """The part of the table that concerns images."""
        return PortraitLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)
