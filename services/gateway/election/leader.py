"""Leader election among gateways: which of several does what one alone should do.

Knows nothing of how that is settled.
"""

import asyncio
from typing import Protocol


class LeaderElection(Protocol):
    """Whether this gateway is the leader."""

    @property
    def is_leader(self) -> bool:
        """True on the leader."""

    async def run(self) -> None:
        """Keeps ``is_leader`` up to date until cancelled."""


class NoElection:
    """The twin without a cluster: every gateway is a leader."""

    is_leader = True

    async def run(self) -> None:
        """See ``LeaderElection``."""
        await asyncio.Event().wait()
