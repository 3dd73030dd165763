"""What the gateway says to clients and pipelines, as messages.

Translates; decides nothing.
"""

from collections.abc import Iterable, Mapping

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2

from live_avatar.config import Preset
from live_avatar.limits import MAX_ENLARGEMENT
from live_avatar.novelty import PORTRAIT_UNLIKE_TRAINING, Novelty
from live_avatar.pipeline.v1 import blocks_pb2
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest, VideoProfile
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import EncodePortraitRequest
from live_avatar.serving.errors import ServiceError, to_status
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import MediaSpan, VideoFormat
from services.gateway.limits import COMFORTABLE_SIDE, LARGEST_SIDE
from services.gateway.store.records import SessionRecord
from services.gateway.video.muxer import Unit

NANOSECONDS = 1_000_000_000
_SAMPLE_BYTES = 4
_FITS = {api.FIT_REFERENCE: EncodePortraitRequest.FIT_REFERENCE}
_MODES = {api.LISTENING_STREAMING: StreamBlocksRequest.Open.AUDIO_MODE_STREAMING}


def duration(count: int, per_second: int) -> Duration:
    """The time of ``count`` samples or frames, to the nanosecond below."""
    result = Duration()
    result.FromNanoseconds(count * NANOSECONDS // per_second)
    return result


def span(first: int, last: int, per_second: int) -> MediaSpan:
    """From ``first`` to ``last``, which is not in it."""
    return MediaSpan(start_time=duration(first, per_second), end_time=duration(last, per_second))


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
    result.create_time.FromMilliseconds(record.create_ms)
    result.expire_time.FromMilliseconds(record.expire_ms)
    result.max_duration.FromMilliseconds(record.max_duration_ms)
    result.idle_timeout.FromMilliseconds(record.idle_timeout_ms)
    return result


def open_request(key: SessionKey, config: api.SessionConfig, size: tuple[int, int]) -> StreamBlocksRequest.Open:
    """What reserves a session; ``size`` is (width, height)."""
    raw = config.video.encoding == VideoFormat.ENCODING_RAW_RGB24
    encoding = VideoProfile.ENCODING_RAW_RGB24 if raw else VideoProfile.ENCODING_H264_ANNEXB
    return StreamBlocksRequest.Open(
        key=key,
        seed=config.seed,
        width=size[0],
        height=size[1],
        audio_mode=_MODES.get(config.listening, StreamBlocksRequest.Open.AUDIO_MODE_WHOLE_FILE),
        video=VideoProfile(
            encoding=encoding,
            max_bitrate_kbps=config.video.max_bitrate_kbps,
            enlargement=0 if raw else config.video.enlargement,
        ),
    )


def audio(
    key: SessionKey, samples: npt.NDArray[np.float32], first: int, *, silence: int = 0, last: bool = False
) -> StreamBlocksRequest:
    """``samples`` [n] from position ``first`` on for the audio encoder, and ``silence`` zeros after them."""
    data = samples.astype("<f4").tobytes() + bytes(_SAMPLE_BYTES * silence)
    return StreamBlocksRequest(audio=StreamBlocksRequest.Audio(key=key, samples=data, sample_offset=first, last=last))


def portrait_request(image: bytes, config: api.SessionConfig, size: tuple[int, int]) -> EncodePortraitRequest:
    """What asks for sink version 0; ``size`` is (width, height)."""
    fit = _FITS.get(config.fit, EncodePortraitRequest.FIT_COVER)
    return EncodePortraitRequest(image=image, width=size[0], height=size[1], fit=fit)


def negotiated(config: api.SessionConfig, size: tuple[int, int], preset: Preset) -> api.SessionConfig:
    """A config with every default filled in."""
    result = api.SessionConfig()
    result.CopyFrom(config)
    result.delivery = config.delivery or api.DELIVERY_OFFLINE
    live = result.delivery == api.DELIVERY_LIVE
    result.listening = config.listening or (api.LISTENING_STREAMING if live else api.LISTENING_WHOLE_FILE)
    result.fit = config.fit or api.FIT_COVER
    result.video.encoding = config.video.encoding or VideoFormat.ENCODING_FMP4
    result.video.enlargement = _enlargement(result.video, size)
    result.video.width, result.video.height = (side * result.video.enlargement for side in size)
    result.video.frames_per_second = preset.stream.fps
    return result


def generated_size(video: VideoFormat) -> tuple[int, int]:
    """Width and height of the pictures of a negotiated config before they are enlarged."""
    times = video.enlargement or 1  # a session of a gateway that did not enlarge yet has none
    return video.width // times, video.height // times


def _enlargement(video: VideoFormat, size: tuple[int, int]) -> int:
    """How many times larger pictures of ``size`` are sent: as often as asked for, while there is room."""
    if video.encoding == VideoFormat.ENCODING_RAW_RGB24:
        return 1
    wanted = video.enlargement or min(MAX_ENLARGEMENT, COMFORTABLE_SIDE // min(size))
    return max(1, min(wanted, LARGEST_SIDE // max(size)))


def video_unit(
    unit: Unit, block: int, preset: Preset, *, idle: bool, timings: Iterable[blocks_pb2.BlockTiming]
) -> api.StreamAvatarResponse:
    """One unit of video on its way to the client."""
    shown = unit.first_frame + preset.stream.dropped_frames
    return api.StreamAvatarResponse(
        video_unit=api.StreamAvatarResponse.VideoUnit(
            data=unit.data,
            block_index=block,
            first_frame_index=unit.first_frame,
            frame_count=unit.frame_count,
            span=span(shown, shown + unit.frame_count, preset.stream.fps),
            keyframe=unit.keyframe,
            idle=idle,
            timings=[public_timing(timing) for timing in timings],
        )
    )


def audio_unit(data: bytes, first: int, samples: int, rate_hz: int, utterance_id: str) -> api.StreamAvatarResponse:
    """The speech beside a block's video; ``first`` is a sample of the session."""
    return api.StreamAvatarResponse(
        audio_unit=api.StreamAvatarResponse.AudioUnit(
            data=data, span=span(first, first + samples, rate_hz), utterance_id=utterance_id
        )
    )


def event(
    kind: api.StreamAvatarResponse.Event.Kind.ValueType,
    utterance_id: str,
    media_time: Duration,
    block: int,
    warning: status_pb2.Status | None = None,
) -> api.StreamAvatarResponse:
    """Something happened that is not media; ``warning`` says what is wrong, where something is."""
    return api.StreamAvatarResponse(
        event=api.StreamAvatarResponse.Event(
            kind=kind, utterance_id=utterance_id, media_time=media_time, block_index=block, warning=warning
        )
    )


def warning(
    reason: str,
    message: str,
    metadata: Mapping[str, str] | None = None,
    code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION,
) -> status_pb2.Status:
    """A problem that does not end the stream, as ``Event.warning`` carries it.

    Args:
        reason: UPPER_SNAKE word of at most 63 letters that a program can compare; part of the API.
        message: one sentence for a person.
        metadata: further strings a program may read.
        code: of the status; OK where the problem is over.
    """
    return to_status(ServiceError(code, reason, message, metadata))


def unlike_training(novelty: Novelty) -> api.StreamAvatarResponse:
    """The portrait is none of those that the weights know."""
    told = warning(PORTRAIT_UNLIKE_TRAINING, novelty.message, novelty.metadata)
    return event(api.StreamAvatarResponse.Event.KIND_WARNING, "", Duration(), 0, told)


def go_away(time_left_s: float, reason: str) -> api.StreamAvatarResponse:
    """The stream will end."""
    notice = api.StreamAvatarResponse.GoAway(reason=reason)
    notice.time_left.FromNanoseconds(int(time_left_s * NANOSECONDS))
    return api.StreamAvatarResponse(go_away=notice)


def opened(record: SessionRecord, config: api.SessionConfig, sequence: int) -> api.StreamAvatarResponse:
    """The first response of a stream."""
    return api.StreamAvatarResponse(
        opened=api.StreamAvatarResponse.Opened(
            session=session(record), negotiated_video=config.video, last_consumed_client_sequence=sequence
        )
    )


def public_timing(timing: blocks_pb2.BlockTiming) -> api.BlockTiming:
    """A service's times as clients see them; both messages have the same fields."""
    return api.BlockTiming.FromString(timing.SerializeToString())
