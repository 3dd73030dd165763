"""Quotas on what one session is: how long, how large, how much speech it may queue.

Plain data.
"""

from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.store.quotas import QuotaError, Quotas
from live_avatar.v1.media_pb2 import VideoFormat


def session_ms(tenant: str, quotas: Quotas, asked_ms: int, default_ms: int) -> int:
    """How long a session lasts at most, in milliseconds; ``asked_ms`` 0: the client leaves it open.

    Raises:
        QuotaError: the client asks for more than its tenant may have.
    """
    most_s = quotas.max_session_seconds
    if most_s and asked_ms > most_s * 1000:
        raise QuotaError(tenant, "max_session_seconds", most_s, f"{asked_ms / 1000:g} s were requested")
    longest_ms = min(default_ms, most_s * 1000) if most_s else default_ms
    return asked_ms or longest_ms


def check_frame(tenant: str, quotas: Quotas, video: VideoFormat) -> None:
    """Raises QuotaError where the frames of a session are larger than its tenant may have."""
    most, pixels = quotas.max_frame_pixels, video.width * video.height
    if most and pixels > most:
        size = f"{video.width} x {video.height} are {pixels}"
        raise QuotaError(tenant, "max_frame_pixels", most, size)


def within(limits: Limits, quotas: Quotas) -> Limits:
    """The table of limits for one session of a tenant."""
    most_s = quotas.max_queued_audio_seconds
    if not most_s:
        return limits
    return limits.model_copy(update={"max_live_audio_seconds": min(limits.max_live_audio_seconds, most_s)})
