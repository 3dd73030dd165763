"""Checks that hold what clients send to the table of limits; all raise before anything is allocated for the request.

``check_message`` walks over the fields that are set in any message, so that a new field of the public API is bounded
without a line of its own; the others know what a request means.  Knows nothing of sessions' state.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from live_avatar import limits as bounds
from live_avatar.services.gateway.access.tokens import MAX_CHARACTERS as MAX_TOKEN_CHARACTERS
from live_avatar.services.gateway.limits import SAMPLE_BYTES, Limits
from live_avatar.services.gateway.refusals import AUDIO_FORMAT_UNSUPPORTED, not_yet_served, refuse
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import AudioFormat, VideoFormat

_MAX_ENTRIES = 64
"""Of any list."""
_PROMPT = "prompt"
"""Text of a person's, held to its own limit where it is used."""
DEFAULT_PAGE, LARGEST_PAGE = 50, 1_000
_LONGER_TIMES = {"lifetime": 10 * 365 * 86_400}
"""Fields that hold a time, in seconds, which is none of a session."""
_LONGER_NAMES = {"session_token": MAX_TOKEN_CHARACTERS}
"""Fields that hold more than a name."""
_NS_PER_S = 10**9


def check_message(message: Message, limits: Limits, path: str = "") -> None:
    """Holds all names, lists and durations of ``message`` to the table.

    Args:
        message: of a client.
        limits: the table.
        path: of ``message`` in the request, with a dot at its end; empty: it is the request.

    Raises:
        ServiceError: INVALID_ARGUMENT naming the field.
    """
    for field, value in message.ListFields():
        name = path + field.name
        values = value if field.is_repeated else (value,)
        if len(values) > _MAX_ENTRIES:
            refuse("LIST_TOO_LONG", f"{len(values)} entries are more than {_MAX_ENTRIES}", name)
        if field.type == FieldDescriptor.TYPE_STRING:
            _check_texts(name, field.name, values, limits)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            _check_messages(name, values, limits)


def _check_texts(path: str, name: str, values: Iterable[str], limits: Limits) -> None:
    if name == _PROMPT:
        return
    most, longest = _LONGER_NAMES.get(name, limits.max_name_characters), max(map(len, values))
    if longest > most:
        refuse("NAME_TOO_LONG", f"{longest} characters are more than {most}", path)


def _check_messages(path: str, values: Iterable[Any], limits: Limits) -> None:
    for value in values:
        if isinstance(value, Duration):
            _check_duration(path, value, _LONGER_TIMES.get(path, limits.max_session_seconds))
        else:
            check_message(value, limits, f"{path}.")


def _check_duration(path: str, duration: Duration, most_s: int) -> None:
    """A time is never negative, and one in a session never beyond the longest session."""
    lasts_ns = duration.seconds * _NS_PER_S + duration.nanos
    if duration.seconds < 0 or not 0 <= duration.nanos < _NS_PER_S or lasts_ns > most_s * _NS_PER_S:
        refuse("DURATION_OUT_OF_RANGE", f"{path} must lie in 0..{most_s} s", path)


def page_size(requested: int) -> int:
    """Entries on a page where a request asks for ``requested``, 0 for the default; raises ServiceError."""
    if requested < 0:
        refuse("PAGE_SIZE_OUT_OF_RANGE", f"page_size {requested} is negative", "page_size")
    return min(requested or DEFAULT_PAGE, LARGEST_PAGE)


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
    if samples > limits.max_audio_chunk_seconds * form.sample_rate_hz:
        refuse(AUDIO_FORMAT_UNSUPPORTED, f"a chunk may last {limits.max_audio_chunk_seconds} s", field)
    return samples


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
    if form.enlargement > bounds.MAX_UPSCALE_FACTOR:
        message = f"pictures are enlarged {bounds.MAX_UPSCALE_FACTOR} times at most, not {form.enlargement}"
        refuse("VIDEO_FORMAT_UNSUPPORTED", message, "config.video.enlargement")


def _check_length(field: str, text: str, most: int, reason: str) -> None:
    if len(text) > most:
        refuse(reason, f"{len(text)} characters are more than {most}", field)
