"""Pipelines that were named once and for all.

Knows nothing else.
"""

import asyncio
from collections.abc import Iterable

from live_avatar.services.gateway.discovery.source import Address, Found


class StaticDiscovery:
    """Tells the pipelines it was given.

    Args:
        addresses: all of them.
    """

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._addresses = frozenset(addresses)

    async def run(self, found: Found) -> None:
        """See ``Discovery``."""
        found(self._addresses)
        await asyncio.Event().wait()
