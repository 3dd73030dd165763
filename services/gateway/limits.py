"""The bounds on what clients send, as one table, and the checks that hold requests to it.

The table is published by GetServerInfo.  Every check raises ``ServiceError`` before anything is allocated for the
request.  Knows messages of the public API; nothing of sessions' state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import grpc

from live_avatar import limits as bounds
from live_avatar.portrait.limits import PortraitLimits
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import AudioFormat, VideoFormat

INVALID = grpc.StatusCode.INVALID_ARGUMENT
AUDIO_FORMAT_UNSUPPORTED = "AUDIO_FORMAT_UNSUPPORTED"
MESSAGE_OUT_OF_ORDER = "MESSAGE_OUT_OF_ORDER"
CAUSE = "cause"
"""Metadata of SESSION_EXPIRED: IDLE or MAX_DURATION."""

SAMPLE_BYTES = {AudioFormat.ENCODING_PCM_S16LE: 2, AudioFormat.ENCODING_PCM_F32LE: 4}
"""Bytes of one sample, for every encoding that is taken."""

LARGEST_SIDE = 1024
"""Pixels up to which pictures may be enlarged."""
COMFORTABLE_SIDE = 256
"""Pixels that the shorter side should have where H.264 halves the resolution of colour."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The table."""

    max_message_bytes: int = 4 * 2**20
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
    max_bitrate_kbps: int = 50_000
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
    max_messages_per_second: int = 500
    """How fast one stream's messages are taken in the long run; more are read later."""
    message_burst: int = 2_000
    """How many are taken at once after a pause."""

    @property
    def portrait(self) -> PortraitLimits:
        """The part of the table that concerns images."""
        return PortraitLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)

    def published(self) -> api.Limits:
        """The table as clients see it."""
        limits = api.Limits(
            max_image_bytes=self.max_image_bytes,
            max_image_pixels=self.max_image_pixels,
            max_prompt_characters=self.max_prompt_characters,
            max_message_bytes=self.max_message_bytes,
            min_sample_rate_hz=self.min_sample_rate_hz,
            max_sample_rate_hz=self.max_sample_rate_hz,
        )
        limits.max_audio_chunk.FromSeconds(self.max_audio_chunk_s)
        limits.max_whole_file.FromSeconds(self.max_whole_file_s)
        limits.max_session.FromSeconds(self.max_session_s)
        limits.idle_timeout.FromSeconds(self.idle_timeout_s)
        return limits


def not_yet_served(field: str) -> ServiceError:
    """The answer to a request that uses a part of the contract that is still to come."""
    return ServiceError(
        grpc.StatusCode.UNIMPLEMENTED, "NOT_YET_SERVED", f"{field} is not served yet", {"field": field}, field=field
    )


def expired(message: str, cause: str = "") -> ServiceError:
    """The answer to those who use a session that has ended; ``cause`` is the reason of the ``GoAway`` before it."""
    metadata = {CAUSE: cause} if cause else {}
    return ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED", message, metadata)


def slow_consumer(message: str) -> ServiceError:
    """The answer to a client that does not take its video."""
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", f"{message}; read it and grant credits")


def check_create(request: api.CreateSessionRequest, limits: Limits) -> None:
    """Holds a CreateSession to the table.

    Raises:
        ServiceError: INVALID_ARGUMENT naming the field, or UNIMPLEMENTED where the contract is ahead of us.
    """
    if request.avatar_id:
        raise not_yet_served("avatar_id")
    if not request.reference_image:
        refuse("IMAGE_UNREADABLE", "a session needs an image", "reference_image")
    check_config(request.config, limits)


def check_config(config: api.SessionConfig, limits: Limits) -> None:
    """Holds a session's parameters to the table; raises like ``check_create``."""
    if config.watermark != api.WATERMARK_POLICY_UNSPECIFIED:
        raise not_yet_served("config.watermark")
    if config.delivery not in api.Delivery.values():
        refuse("ENUM_UNKNOWN", f"config.delivery={config.delivery} is unknown", "config.delivery")
    _check_length("config.prompt", config.prompt, limits.max_prompt_characters, "PROMPT_TOO_LONG")
    if config.listening not in api.Listening.values():
        refuse("ENUM_UNKNOWN", f"config.listening={config.listening} is unknown", "config.listening")
    if config.delivery == api.DELIVERY_LIVE and config.listening == api.LISTENING_WHOLE_FILE:
        refuse("NOT_LIVE", "live delivery cannot wait for the whole of the speech", "config.listening")
    if config.fit not in api.Fit.values():
        refuse("ENUM_UNKNOWN", f"config.fit={config.fit} is unknown", "config.fit")
    _check_audio(config.audio, limits)
    _check_video(config.video, limits)


def check_update(config: api.SessionConfig, paths: Sequence[str], limits: Limits) -> str:
    """The new prompt that an update asks for.

    Raises:
        ServiceError: INVALID_ARGUMENT where it names nothing or breaks a limit, UNIMPLEMENTED where it names more.
    """
    for path in paths:
        if path != "prompt":
            raise not_yet_served(f"update_mask {path}")
    if not paths:
        refuse("UPDATE_EMPTY", "update_mask names nothing", "update_mask")
    _check_length("config.prompt", config.prompt, limits.max_prompt_characters, "PROMPT_TOO_LONG")
    return config.prompt


def check_chunk(chunk: api.StreamAvatarRequest.AudioChunk, form: AudioFormat, limits: Limits) -> int:
    """Samples in a chunk of speech.

    Raises:
        ServiceError: INVALID_ARGUMENT; the chunk is empty, too long, or no whole number of samples.
    """
    field = "audio_chunk.data"
    samples, rest = divmod(len(chunk.data), SAMPLE_BYTES[form.encoding])
    if rest:
        refuse(AUDIO_FORMAT_UNSUPPORTED, f"{len(chunk.data)} bytes are no whole number of samples", field)
    if not samples:
        refuse(AUDIO_FORMAT_UNSUPPORTED, "the chunk is empty", field)
    if samples > limits.max_audio_chunk_s * form.sample_rate_hz:
        refuse(AUDIO_FORMAT_UNSUPPORTED, f"a chunk may last {limits.max_audio_chunk_s} s", field)
    return samples


def check_credits(held: int, granted: int, limits: Limits) -> int:
    """Credits a client's stream holds after a grant.

    Raises:
        ServiceError: INVALID_ARGUMENT; more than the table allows.
    """
    if held + granted > limits.max_video_credits:
        message = f"{held} + {granted} video units are more than {limits.max_video_credits}"
        refuse("CREDIT_OUT_OF_RANGE", message, "credit.video_units")
    return held + granted


def _check_audio(form: AudioFormat, limits: Limits) -> None:
    if form.encoding not in SAMPLE_BYTES:
        refuse(AUDIO_FORMAT_UNSUPPORTED, f"encoding {form.encoding} is not taken", "config.audio.encoding")
    if not limits.min_sample_rate_hz <= form.sample_rate_hz <= limits.max_sample_rate_hz:
        message = f"{form.sample_rate_hz} Hz is outside {limits.min_sample_rate_hz}..{limits.max_sample_rate_hz}"
        refuse(AUDIO_FORMAT_UNSUPPORTED, message, "config.audio.sample_rate_hz")
    if form.channel_count != 1:
        message = f"{form.channel_count} channels were given, speech has 1"
        refuse(AUDIO_FORMAT_UNSUPPORTED, message, "config.audio.channel_count")


def _check_video(form: VideoFormat, limits: Limits) -> None:
    if form.encoding not in VideoFormat.Encoding.values():
        refuse("VIDEO_FORMAT_UNSUPPORTED", f"encoding {form.encoding} is unknown", "config.video.encoding")
    if form.max_bitrate_kbps > limits.max_bitrate_kbps:
        message = f"{form.max_bitrate_kbps} kbit/s is over {limits.max_bitrate_kbps}"
        refuse("VIDEO_FORMAT_UNSUPPORTED", message, "config.video.max_bitrate_kbps")
    if form.enlargement > bounds.MAX_ENLARGEMENT:
        message = f"pictures are enlarged {bounds.MAX_ENLARGEMENT} times at most, not {form.enlargement}"
        refuse("VIDEO_FORMAT_UNSUPPORTED", message, "config.video.enlargement")


def _check_length(field: str, text: str, most: int, reason: str) -> None:
    if len(text) > most:
        refuse(reason, f"{len(text)} characters are more than {most}", field)


def refuse(reason: str, message: str, field: str) -> NoReturn:
    """Raises INVALID_ARGUMENT about ``field``."""
    raise ServiceError(INVALID, reason, message, field=field)
