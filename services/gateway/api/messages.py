"""What the gateway says to clients, as messages of the public API.

Translates; decides nothing.
"""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from live_avatar.config import Preset
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.sessions.events import NANOSECONDS, Event, EventKind, GoAway, Notice, media_ns
from live_avatar.services.gateway.sessions.stream_state import StreamState
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.video.muxer import Fragment
from live_avatar.serving.errors import to_status
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import MediaSpan

_Kind = api.StreamAvatarResponse.Event.Kind
_KINDS = {kind: _Kind.Value(f"KIND_{kind.name}") for kind in EventKind}


def duration(nanoseconds: int) -> Duration:
    """A time on the session's clock."""
    result = Duration()
    result.FromNanoseconds(nanoseconds)
    return result


def span(first: int, last: int, per_second: int) -> MediaSpan:
    """From sample or frame ``first`` to ``last``, which is not in it."""
    return MediaSpan(start_time=duration(media_ns(first, per_second)), end_time=duration(media_ns(last, per_second)))


def limits(table: Limits) -> api.Limits:
    """The part of the table of limits that clients see."""
    return api.Limits(
        max_image_bytes=table.max_image_bytes,
        max_image_pixels=table.max_image_pixels,
        max_prompt_characters=table.max_prompt_characters,
        max_message_bytes=table.max_message_bytes,
        min_sample_rate_hz=table.min_sample_rate_hz,
        max_sample_rate_hz=table.max_sample_rate_hz,
        max_messages_per_second=table.max_messages_per_second,
        max_calls_per_second=table.max_calls_per_second,
        max_calls_in_progress=table.max_calls_per_caller,
        max_video_credits=table.max_video_credits,
        max_bitrate_kbps=table.max_bitrate_kbps,
        max_audio_chunk=_seconds(table.max_audio_chunk_seconds),
        max_whole_file=_seconds(table.max_whole_file_seconds),
        max_session=_seconds(table.max_session_seconds),
        idle_timeout=_seconds(table.idle_timeout_seconds),
        open_timeout=_seconds(table.open_timeout_seconds),
        max_queued_audio=_seconds(table.max_queued_audio_seconds),
        max_live_audio=_seconds(table.max_live_audio_seconds),
        live_idle_timeout=_seconds(table.live_idle_seconds),
        slow_consumer_timeout=_seconds(table.slow_consumer_seconds),
        live_slow_consumer_timeout=_seconds(table.live_slow_consumer_seconds),
        resume_timeout=_seconds(table.resume_seconds),
    )


def _seconds(seconds: float) -> Duration:
    return duration(round(seconds * NANOSECONDS))


def notice(notice: Notice) -> api.StreamAvatarResponse:
    """What a client learns beside the video."""
    return _go_away(notice) if isinstance(notice, GoAway) else _event(notice)


def _event(event: Event) -> api.StreamAvatarResponse:
    return api.StreamAvatarResponse(
        event=api.StreamAvatarResponse.Event(
            kind=_KINDS[event.kind],
            utterance_id=event.utterance_id,
            media_time=duration(event.media_ns),
            block_index=event.block,
            warning=None if event.problem is None else to_status(event.problem),
            last_consumed_client_sequence=event.consumed,
            text=event.text,
            signed_record=event.signed_record,
        )
    )


def _go_away(notice: GoAway) -> api.StreamAvatarResponse:
    time_left = duration(int(notice.time_left_s * NANOSECONDS))
    return api.StreamAvatarResponse(
        go_away=api.StreamAvatarResponse.GoAway(reason=notice.reason, time_left=time_left, resumable=notice.resumable)
    )


def session(record: SessionRecord) -> api.Session:
    """A session as clients see it."""
    # The store keeps numbers that a newer gateway may have written.
    state = record.state if record.state in api.Session.State.values() else api.Session.STATE_UNSPECIFIED
    result = api.Session(
        session_id=record.session_id,
        config=api.SessionConfig.FromString(record.config),
        epoch=record.epoch,
        end_reason=record.end_reason,
    )
    result.state = api.Session.State.ValueType(state)
    if record.provenance:
        result.provenance.MergeFromString(record.provenance)
    result.create_time.FromMilliseconds(record.create_ms)
    result.expire_time.FromMilliseconds(record.expire_ms)
    result.max_duration.FromMilliseconds(record.max_duration_ms)
    result.idle_timeout.FromMilliseconds(record.idle_timeout_ms)
    return result


def video_unit(
    fragment: Fragment, block: int, preset: Preset, *, idle: bool, timings: Iterable[api.BlockTiming]
) -> api.StreamAvatarResponse:
    """One unit of video on its way to the client."""
    shown = fragment.first_frame + preset.stream.dropped_frames
    return api.StreamAvatarResponse(
        video_unit=api.StreamAvatarResponse.VideoUnit(
            data=fragment.data,
            block_index=block,
            first_frame_index=fragment.first_frame,
            frame_count=fragment.frame_count,
            span=span(shown, shown + fragment.frame_count, preset.stream.fps),
            keyframe=fragment.keyframe,
            idle=idle,
            timings=timings,
        )
    )


def audio_unit(data: bytes, first: int, samples: int, rate_hz: int, utterance_id: str) -> api.StreamAvatarResponse:
    """The speech beside a block's video; ``first`` is a sample of the session."""
    return api.StreamAvatarResponse(
        audio_unit=api.StreamAvatarResponse.AudioUnit(
            data=data, span=span(first, first + samples, rate_hz), utterance_id=utterance_id
        )
    )


def opened(
    record: SessionRecord, config: api.SessionConfig, state: StreamState, handle: str
) -> api.StreamAvatarResponse:
    """The first response of a stream; ``handle`` resumes it, and is empty where it cannot be resumed."""
    return api.StreamAvatarResponse(
        opened=api.StreamAvatarResponse.Opened(
            session=session(record),
            resume_handle=handle,
            negotiated_video=config.video,
            last_consumed_client_sequence=state.client_sequence,
            next_block_index=state.log.block,
        )
    )


def resumption_update(block: int, sequence: int, handle: str) -> api.StreamAvatarResponse:
    """A newer handle, for ``block`` after the client's message ``sequence``; empty: everything was sent."""
    return api.StreamAvatarResponse(
        resumption_update=api.StreamAvatarResponse.ResumptionUpdate(
            resume_handle=handle,
            resumable=bool(handle),
            last_consumed_client_sequence=sequence,
            next_block_index=block,
        )
    )
