"""Settings of the gateway."""

import dataclasses
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from live_avatar.services.gateway.access.audit_settings import AuditSettings
from live_avatar.services.gateway.access.settings import AuthSettings
from live_avatar.services.gateway.discovery.settings import DiscoverySettings
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.quotas.settings import QuotaSettings
from live_avatar.services.gateway.sessions.policy import LiveRules
from live_avatar.services.gateway.store.redis_access import IN_MEMORY
from live_avatar.services.gateway.usage.settings import UsageSettings
from live_avatar.serving.settings import ClientTlsSettings, CommaSeparated, Group, Settings

_TABLE = Limits()
_LIVE = LiveRules()
PipelineAddress = Annotated[str, Field(pattern=r"^[^/\s]+:\d+/[^/\s]+:\d+$")]


class StoreSettings(Group):
    """Where sessions are kept."""

    url: str = Field(
        default=IN_MEMORY,
        description="redis://host:port/0, or memory:// to keep them in this process, for one gateway alone",
    )
    lease_seconds: float = Field(
        default=10.0, ge=0.5, le=600, description="how long a session is kept after its gateway's last renewal"
    )
    retention_seconds: float = Field(
        default=120.0, ge=1, le=86_400, description="how long an ended session can still be read"
    )


class LimitSettings(Group):
    """Bounds on what clients send; all are published to them."""

    max_session_seconds: int = Field(
        default=_TABLE.max_session_s, ge=1, description="longest duration of a session, and the default"
    )
    idle_timeout_seconds: int = Field(
        default=_TABLE.idle_timeout_s, ge=1, description="a session ends after so long without activity"
    )
    slow_consumer_seconds: int = Field(
        default=_TABLE.slow_consumer_s, ge=1, description="how long finished video waits for its client"
    )
    live_idle_seconds: int = Field(
        default=_TABLE.live_idle_s, ge=1, description="a live session ends after so long without speech"
    )
    live_slow_consumer_seconds: float = Field(
        default=_TABLE.live_slow_consumer_s, gt=0, le=60, description="slow_consumer_seconds of live delivery"
    )
    max_live_audio_seconds: int = Field(
        default=_TABLE.max_live_audio_s, ge=1, description="speech of a live session that may be queued"
    )
    block_deadline_seconds: int = Field(
        default=_TABLE.block_deadline_s, ge=1, description="from the admission of a block to its frames"
    )
    max_whole_file_seconds: int = Field(
        default=_TABLE.max_whole_file_s,
        ge=1,
        description="longest recording that is encoded as a whole; the audio encoder has a bound of the same name",
    )
    max_unread_blocks: int = Field(
        default=_TABLE.max_unread_blocks,
        ge=0,
        description="blocks of a session that may be in flight or unread; 0: one per service of the pipeline",
    )
    open_timeout_seconds: float = Field(
        default=_TABLE.open_timeout_s, gt=0, le=600, description="a stream ends after so long without a first message"
    )
    max_unopened_streams: int = Field(
        default=_TABLE.max_unopened_streams, ge=1, description="streams that may wait for their first message"
    )
    max_calls_per_second: int = Field(
        default=_TABLE.max_calls_per_second,
        ge=1,
        description="calls that one credential, or one address without any, may begin per second, streams included; "
        "those of two seconds at once after a pause; loopback without a credential is not limited",
    )
    max_calls_per_caller: int = Field(
        default=_TABLE.max_calls_per_caller,
        ge=1,
        description="calls of one credential, or of one address without any, that are in progress, without streams",
    )
    max_messages_per_second: int = Field(
        default=_TABLE.max_messages_per_second, ge=50, description="rate at which the messages of one stream are read"
    )

    def table(self) -> Limits:
        """The whole table of limits."""
        own = {name.removesuffix("seconds") + "s" if name.endswith("_seconds") else name: value for name, value in self}
        return dataclasses.replace(_TABLE, **own)


class LiveSettings(Group):
    """Pacing of live delivery."""

    jitter_ms: int = Field(
        default=_LIVE.jitter_ms,
        ge=0,
        le=10_000,
        description="jitter buffer: speech held against chunks that arrive late",
    )
    margin_ms: int = Field(
        default=_LIVE.margin_ms, ge=0, le=2_000, description="how long before its due time a block should arrive"
    )
    max_lead_ms: int = Field(
        default=_LIVE.max_lead_ms,
        ge=0,
        le=60_000,
        description="most media that is generated or in flight beyond playback; "
        "0: two blocks more than the pipeline holds",
    )

    def rules(self) -> LiveRules:
        """As the sessions use them."""
        return LiveRules(jitter_ms=self.jitter_ms, margin_ms=self.margin_ms, max_lead_ms=self.max_lead_ms)


class GatewaySettings(Settings):
    """Serves the public API in front of one or more pipelines."""

    pipelines: CommaSeparated[PipelineAddress] = Field(
        default=(),
        description="each as HEAD/DECODER: addresses of its audio encoder and its VAE decoder; unset: see discovery",
    )
    discovery: DiscoverySettings = DiscoverySettings()
    tls: ClientTlsSettings = ClientTlsSettings()
    allow_shared_devices: bool = Field(
        default=False, description="accept a pipeline of which several services use the same accelerator"
    )
    preset_file: Path | None = Field(
        default=None, description=".json file that describes a system which pipelines may run beside the built-in ones"
    )
    endpoint: str = Field(
        default="", description="address at which clients reach this gateway; unset: the address that they called"
    )
    token_key: SecretStr | None = Field(
        default=None,
        description="secret from which session tokens are derived; gateways that share a store need the same; "
        "unset: random",
    )
    previous_token_key: SecretStr | None = Field(
        default=None, description="token_key before this one: its session tokens are accepted and no new ones made"
    )
    auth: AuthSettings = AuthSettings()
    audit: AuditSettings = AuditSettings()
    store: StoreSettings = StoreSettings()
    limits: LimitSettings = LimitSettings()
    live: LiveSettings = LiveSettings()
    quotas: QuotaSettings = QuotaSettings()
    usage: UsageSettings = UsageSettings()

    @model_validator(mode="after")
    def _pipelines_must_come_from_one_place(self) -> Self:
        places = (bool(self.pipelines), self.discovery.dns is not None, self.discovery.service is not None)
        if sum(places) != 1:
            raise ValueError("give exactly one of pipelines, discovery.dns and discovery.service")
        return self

    @model_validator(mode="after")
    def _strangers_must_be_authenticated(self) -> Self:
        self.auth.check_host(self.server.host)
        return self
