"""What a gateway sends, as plain records.

Times are whole nanoseconds on the session's clock, which starts at 0 with the first sample of speech.  Knows the
public messages and nothing of calls.
"""

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from live_avatar.client.errors import AvatarError, from_status
from live_avatar.v1 import avatar_service_pb2 as api

WARNING = "WARNING"
"""Kind of an event that is a warning and nothing else."""
DISCLOSURE = "DISCLOSURE"
"""Kind of the first event of a stream: its text is for people, who watch generated media."""
DEGRADED, RECOVERED = "DEGRADED", "RECOVERED"
"""Kinds of events that say, in their warning, what spoils a session, and that it is over."""
DISCONTINUITY = "DISCONTINUITY"
"""Kind of an event that says that another pipeline or gateway goes on with the session."""
AUDIO_STARVED, PIPELINE_SLOW, CLIENT_SLOW = "AUDIO_STARVED", "PIPELINE_SLOW", "CLIENT_SLOW"
"""Reasons of such a warning."""

_Response = api.StreamAvatarResponse


@dataclass(frozen=True, kw_only=True)
class BlockTiming:
    """Seconds that one service spent on one block; 0 where it does no such thing."""

    service: str
    queue_s: float
    compute_s: float
    encode_s: float
    hop_s: float


@dataclass(frozen=True, kw_only=True)
class VideoUnit:
    """A piece of video: one fragment, one block of access units, or one picture."""

    data: bytes
    block_index: int
    first_frame: int
    frame_count: int
    start_ns: int
    end_ns: int
    keyframe: bool
    idle: bool
    """No speech drove this block."""
    timings: tuple[BlockTiming, ...]


@dataclass(frozen=True, kw_only=True)
class AudioUnit:
    """The speech that belongs to the same span, as it was sent."""

    data: bytes
    start_ns: int
    end_ns: int
    utterance_id: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened that is not media."""

    kind: str
    """Such as UTTERANCE_STARTED."""
    utterance_id: str
    media_time_ns: int
    block_index: int
    warning: AvatarError | None
    """A problem that does not end the stream: reason, message, metadata; with RECOVERED, one that has passed."""
    text: str = ""
    """Of DISCLOSURE: what people are to be shown."""
    signed_record: str = ""
    """Of SIGNED_RECORD: a JSON Web Signature over what the gateway knows of the session's media."""


@dataclass(frozen=True, kw_only=True)
class StreamLost:
    """The stream broke; it is being resumed."""

    cause: AvatarError


@dataclass(frozen=True, kw_only=True)
class StreamResumed:
    """The session goes on where its stream broke: nothing is lost, nothing comes twice."""

    after_s: float
    """For how long there was no stream."""
    attempts: int


@dataclass(frozen=True, kw_only=True)
class GoAway:
    """The server will end this stream."""

    time_left_s: float
    reason: str
    resumable: bool = False
    """The session goes on after it."""


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """What a barge-in met."""

    last_played_ns: int
    """Media time up to which the viewer had come."""
    first_clean_block: int
    """First block without anything of what was interrupted."""


Result = VideoUnit | AudioUnit | Event | GoAway | StreamLost | StreamResumed


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that the server enforces; 0: not reported.  A tenant's quotas may be lower."""

    max_message_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_prompt_characters: int
    min_sample_rate_hz: int
    max_sample_rate_hz: int
    max_audio_chunk_s: float
    max_whole_file_s: float
    """Longest recording that is encoded as a whole."""
    max_session_s: float
    idle_timeout_s: float
    open_timeout_s: float
    """How long a stream may take to send its Open."""
    max_messages_per_second: int
    """Of one stream; further ones are read later."""
    max_calls_per_second: int
    """Of one caller, streams included."""
    max_calls_in_progress: int
    """Of one caller, streams not counted."""
    max_video_credits: int
    max_bitrate_kbps: int
    max_queued_audio_s: float
    """Streamed speech of an offline session that waits before more of it is read."""
    max_live_audio_s: float
    """Speech of a live session that may wait to be spoken."""
    live_idle_timeout_s: float
    """Longest time without speech in a live session."""
    slow_consumer_timeout_s: float
    """How long finished video waits for a client that neither reads nor grants credits."""
    live_slow_consumer_timeout_s: float
    """The same in live delivery."""
    resume_timeout_s: float
    """How long a session waits for its client to resume its stream."""


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """What a gateway says of itself."""

    version: str
    preset: str
    session_capacity: int
    sessions_open: int
    pipelines: tuple[str, ...]
    limits: Limits


def from_response(response: _Response) -> Result | None:
    """The record of one response; None where a newer server sent what this client does not know."""
    match response.WhichOneof("payload"):
        case "video_unit":
            return _video_unit(response.video_unit)
        case "audio_unit":
            unit = response.audio_unit
            return AudioUnit(
                data=unit.data,
                start_ns=unit.span.start_time.ToNanoseconds(),
                end_ns=unit.span.end_time.ToNanoseconds(),
                utterance_id=unit.utterance_id,
            )
        case "event":
            return _event(response.event)
        case "go_away":
            return _go_away(response.go_away)
    return None


def _go_away(notice: _Response.GoAway) -> GoAway:
    return GoAway(time_left_s=_seconds(notice.time_left), reason=notice.reason, resumable=notice.resumable)


def server_info(response: api.GetServerInfoResponse) -> ServerInfo:
    """The record of a server's answer."""
    return ServerInfo(
        version=response.version,
        preset=response.preset,
        session_capacity=response.session_capacity,
        sessions_open=response.sessions_open,
        pipelines=tuple(response.pipelines),
        limits=_limits(response.limits),
    )


def _limits(limits: api.Limits) -> Limits:
    """The record of the bounds."""
    return Limits(
        max_message_bytes=limits.max_message_bytes,
        max_image_bytes=limits.max_image_bytes,
        max_image_pixels=limits.max_image_pixels,
        max_prompt_characters=limits.max_prompt_characters,
        min_sample_rate_hz=limits.min_sample_rate_hz,
        max_sample_rate_hz=limits.max_sample_rate_hz,
        max_audio_chunk_s=_seconds(limits.max_audio_chunk),
        max_whole_file_s=_seconds(limits.max_whole_file),
        max_session_s=_seconds(limits.max_session),
        idle_timeout_s=_seconds(limits.idle_timeout),
        open_timeout_s=_seconds(limits.open_timeout),
        max_messages_per_second=limits.max_messages_per_second,
        max_calls_per_second=limits.max_calls_per_second,
        max_calls_in_progress=limits.max_calls_in_progress,
        max_video_credits=limits.max_video_credits,
        max_bitrate_kbps=limits.max_bitrate_kbps,
        max_queued_audio_s=_seconds(limits.max_queued_audio),
        max_live_audio_s=_seconds(limits.max_live_audio),
        live_idle_timeout_s=_seconds(limits.live_idle_timeout),
        slow_consumer_timeout_s=_seconds(limits.slow_consumer_timeout),
        live_slow_consumer_timeout_s=_seconds(limits.live_slow_consumer_timeout),
        resume_timeout_s=_seconds(limits.resume_timeout),
    )


def _video_unit(unit: _Response.VideoUnit) -> VideoUnit:
    return VideoUnit(
        data=unit.data,
        block_index=unit.block_index,
        first_frame=unit.first_frame_index,
        frame_count=unit.frame_count,
        start_ns=unit.span.start_time.ToNanoseconds(),
        end_ns=unit.span.end_time.ToNanoseconds(),
        keyframe=unit.keyframe,
        idle=unit.idle,
        timings=tuple(_timing(timing) for timing in unit.timings),
    )


def _timing(timing: api.BlockTiming) -> BlockTiming:
    return BlockTiming(
        service=timing.service,
        queue_s=_seconds(timing.queue_time),
        compute_s=_seconds(timing.compute_time),
        encode_s=_seconds(timing.encode_time),
        hop_s=_seconds(timing.hop_time),
    )


def _event(event: _Response.Event) -> Event:
    known = event.kind in _Response.Event.Kind.values()
    return Event(
        kind=_Response.Event.Kind.Name(event.kind).removeprefix("KIND_") if known else str(event.kind),
        utterance_id=event.utterance_id,
        media_time_ns=event.media_time.ToNanoseconds(),
        block_index=event.block_index,
        warning=from_status(event.warning) if event.HasField("warning") else None,
        text=event.text,
        signed_record=event.signed_record,
    )


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
