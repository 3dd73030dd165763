"""What an operator decides about sessions.

Plain data.
"""

from dataclasses import dataclass

from live_avatar.services.gateway.access.tokens import SessionTokens
from live_avatar.services.gateway.limits import Limits


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
