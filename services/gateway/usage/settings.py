"""Settings of usage records."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from live_avatar.services.gateway.store.usage import MAX_ENTRIES
from live_avatar.services.gateway.usage.recorder import RecordingRules
from live_avatar.serving.settings import Group

_DAY_MS = 24 * 3600 * 1000


class UsageSettings(Group):
    """Records of what sessions use."""

    interval_seconds: float = Field(
        default=60.0, ge=0.1, le=3600, description="time between two usage records of a session"
    )
    retention_days: float = Field(default=90.0, gt=0, le=3650, description="how long usage records are kept")
    max_entries: int = Field(
        default=MAX_ENTRIES, ge=1000, description="most usage records that are kept, about 300 bytes each"
    )
    webhook_url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = Field(
        default=None, description="address to which usage records are posted; unset: none"
    )
    webhook_secret: SecretStr | None = Field(
        default=None, min_length=16, description="key of the signature of what is posted; required with webhook_url"
    )

    def rules(self) -> RecordingRules:
        """As records are written."""
        retention_ms = round(self.retention_days * _DAY_MS)
        return RecordingRules(interval_s=self.interval_seconds, retention_ms=retention_ms)

    @model_validator(mode="after")
    def _webhooks_are_signed(self) -> Self:
        if (self.webhook_url is None) != (self.webhook_secret is None):
            raise ValueError("webhook_url and webhook_secret belong together")
        return self
