"""What an operator decides about sessions.

Plain data.
"""

from dataclasses import dataclass, replace

from pydantic import Field

from live_avatar.services.gateway.access.tokens import SessionTokens
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.provenance.signing import MediaSigning
from live_avatar.services.gateway.quotas.rules import within
from live_avatar.services.gateway.store.quotas import Quotas
from live_avatar.services.gateway.usage.recorder import RecordingRules
from live_avatar.serving.settings import Group

_NO_QUOTAS, _RECORDING = Quotas(), RecordingRules()


class LiveRules(Group):
    """Pacing of live delivery."""

    jitter_ms: int = Field(
        default=200,
        ge=0,
        le=10_000,
        description="jitter buffer: speech held against chunks that arrive late",
    )
    margin_ms: int = Field(default=80, ge=0, le=2_000, description="how long before its due time a block should arrive")
    max_lead_ms: int = Field(
        default=0,
        ge=0,
        le=60_000,
        description="most media that is generated or in flight beyond playback; "
        "0: two blocks more than the pipeline holds",
    )


@dataclass(frozen=True, kw_only=True)
class SessionPolicy:
    """Bounds, pacing and keys of all sessions of one gateway."""

    limits: Limits
    tokens: SessionTokens
    endpoint: str
    """Address at which clients reach this very gateway; empty: the one they called."""
    live: LiveRules
    drain_s: float
    """How long running sessions may go on once the gateway is asked to end."""
    lease_s: float
    """How long a session outlives its gateway's last sign of life."""
    grace_s: float = 30.0
    """How long sessions go on while the store does not answer."""
    quotas: Quotas = _NO_QUOTAS
    """Of tenants that have none of their own."""
    relay: str = ""
    """Address at which other gateways reach this one; empty: at none."""
    recording: RecordingRules = _RECORDING
    """How use is recorded."""
    signing: MediaSigning | None = None
    """Signs the media; None: they are not signed."""
    disclosure: str = ""
    """What people are shown first; empty: nothing."""

    def within(self, quotas: Quotas) -> "SessionPolicy":
        """The policy for one session of a tenant with ``quotas``."""
        return replace(self, limits=within(self.limits, quotas))
