"""The bounds on what clients send, as one table.

Plain data; GetServerInfo publishes part of it.
"""

from dataclasses import dataclass

from live_avatar import limits as bounds
from live_avatar.portrait.limits import PortraitLimits
from live_avatar.v1.media_pb2 import AudioFormat

SAMPLE_BYTES = {AudioFormat.ENCODING_PCM_S16LE: 2, AudioFormat.ENCODING_PCM_F32LE: 4}
"""Bytes of one sample, for every encoding that is taken."""

LARGEST_SIDE = 1024
"""Pixels up to which pictures may be enlarged."""
COMFORTABLE_SIDE = 256
"""Pixels that the shorter side should have where H.264 halves the resolution of colour."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The table."""

    max_message_bytes: int = bounds.MAX_MESSAGE_BYTES
    max_image_bytes: int = bounds.MAX_IMAGE_BYTES
    """What a message holds beside the image of the longest prompt and everything else."""
    max_image_pixels: int = bounds.MAX_IMAGE_PIXELS
    max_prompt_characters: int = bounds.MAX_PROMPT_CHARACTERS
    max_name_characters: int = 128
    """Of request ids, utterance ids and page tokens."""
    max_audio_chunk_s: int = 20
    max_whole_file_s: int = bounds.MAX_WHOLE_FILE_S
    """Attention over a whole recording grows with its square."""
    max_session_s: int = 12 * 3600
    idle_timeout_s: int = 60
    min_sample_rate_hz: int = bounds.MIN_RATE_HZ
    max_sample_rate_hz: int = bounds.MAX_RATE_HZ
    max_video_credits: int = 1_000
    max_bitrate_kbps: int = bounds.MAX_BITRATE_KBPS
    max_queued_audio_s: int = 30
    """Streamed speech that waits in the gateway before the client is read no further."""
    max_unread_blocks: int = 0
    """Blocks that are on their way or wait for the client to take them; 0: one per service of the pipeline."""
    slow_consumer_s: int = 15
    """How long finished video waits for a client that neither reads nor grants credits."""
    block_deadline_s: int = 60
    """From a block's admission to its pictures."""
    live_idle_s: int = 300
    """How long nobody may speak in a live session."""
    live_slow_consumer_s: float = 2.0
    """``slow_consumer_s`` of live delivery, from the arrival of a block's pictures."""
    max_unread_bytes: int = 1_000_000
    """Finished video of a live session that waits, where that is more than one block."""
    max_live_audio_s: int = 120
    """Speech of a live session that waits to be spoken."""
    open_timeout_s: float = 10.0
    """How long a stream may be silent before its open."""
    max_unopened_streams: int = 256
    """Streams that may wait for their open at the same time."""
    max_calls_per_second: int = 100
    """Calls that one caller may begin, in the long run."""
    max_calls_per_caller: int = 256
    """Unary calls of one credential, or of one address without any, that are in progress."""
    max_messages_per_second: int = 500
    """How fast one stream's messages are taken in the long run; more are read later."""
    message_burst: int = 250
    """How many are taken at once after a pause."""

    @property
    def portrait(self) -> PortraitLimits:
        """The part of the table that concerns images."""
        return PortraitLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)
