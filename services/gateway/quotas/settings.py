"""Settings of quotas: what a tenant may use that has none of its own."""

from pydantic import Field

from live_avatar.services.gateway.store.quotas import Quotas
from live_avatar.serving.settings import Group


class QuotaSettings(Group):
    """Quotas of every tenant, on all gateways together, unless it has its own; 0: no limit."""

    max_concurrent_sessions: int = Field(
        default=0, ge=0, le=2**32 - 1, description="sessions of a tenant at the same time; 0: no limit"
    )
    max_sessions_per_minute: int = Field(
        default=0, ge=0, le=2**32 - 1, description="CreateSession calls of a tenant per minute; 0: no limit"
    )
    max_media_seconds_per_day: int = Field(
        default=0, ge=0, le=2**50, description="media delivered to a tenant per day (UTC); 0: no limit"
    )
    max_media_seconds_per_month: int = Field(
        default=0, ge=0, le=2**50, description="media delivered to a tenant per month (UTC); 0: no limit"
    )
    max_session_seconds: int = Field(
        default=0, ge=0, le=2**32 - 1, description="longest session of a tenant; 0: limits.max_session_seconds"
    )
    max_frame_pixels: int = Field(
        default=0, ge=0, le=2**50, description="largest frame of a tenant, width times height; 0: no limit"
    )
    max_queued_audio_seconds: int = Field(
        default=0,
        ge=0,
        le=2**32 - 1,
        description="speech of a live session that may be queued; 0: limits.max_live_audio_seconds",
    )

    def table(self) -> Quotas:
        """As they are enforced."""
        return Quotas(**self.model_dump())
