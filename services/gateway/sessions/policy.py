"""What an operator decides about sessions.

Plain data.
"""

from dataclasses import dataclass, replace

from live_avatar.services.gateway.access.tokens import SessionTokens
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.quotas.rules import within
from live_avatar.services.gateway.store.quotas import Quotas
from live_avatar.services.gateway.usage.recorder import RecordingRules

_NO_QUOTAS, _RECORDING = Quotas(), RecordingRules()


@dataclass(frozen=True, kw_only=True)
class LiveRules:
    """Pacing of live delivery."""

    max_lead_ms: int = 0
    """Most that may be generated or on its way beyond what was played; 0: two blocks more than the pipeline holds."""
    jitter_ms: int = 200
    """Speech that is kept in hand against late pieces."""
    margin_ms: int = 80
    """Time a block should arrive before it is due."""


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
    quotas: Quotas = _NO_QUOTAS
    """Of tenants that have none of their own."""
    recording: RecordingRules = _RECORDING
    """How use is recorded."""

    def within(self, quotas: Quotas) -> "SessionPolicy":
        """The policy for one session of a tenant with ``quotas``."""
        return replace(self, limits=within(self.limits, quotas))
