"""Who of several gateways does what one alone should do.

Knows nothing of how that is settled.
"""

import asyncio
from typing import Protocol


class Singleton(Protocol):
    """Whether this gateway does what one of them alone should do."""

    @property
    def mine(self) -> bool:
        """It does."""

    async def run(self) -> None:
        """Keeps ``mine`` equal to what is, until cancelled."""


class Everyone:
    """The twin without a cluster: every gateway does it."""

    mine = True

    async def run(self) -> None:
        """See ``Singleton``."""
        await asyncio.Event().wait()
