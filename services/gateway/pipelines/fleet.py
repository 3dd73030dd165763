"""All pipelines that this gateway knows, as they come and go.

One that is no longer found takes no new sessions; it is let go once its last session has ended.  Knows pipelines and
how they are found; nothing of sessions.
"""

import asyncio
from collections.abc import Callable, Sequence, Set

import structlog

from live_avatar.services.gateway.discovery.source import Address, Discovery
from live_avatar.services.gateway.pipelines.pipeline import Pipeline

_SWEEP_S = 0.5


class Fleet:
    """Pipelines by their addresses; ``run`` must run while it is used.

    Args:
        discovery: lists them.
        make: makes one that does not run yet.
    """

    def __init__(self, discovery: Discovery, make: Callable[[Address], Pipeline]) -> None:
        self._discovery = discovery
        self._make = make
        self._listed: Set[Address] = frozenset()
        self._pipelines: dict[Address, Pipeline] = {}
        self._running: dict[Address, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._log = structlog.get_logger(__name__)

    @property
    def pipelines(self) -> Sequence[Pipeline]:
        """Those that may get new sessions, as far as finding them goes."""
        return [pipeline for address, pipeline in self._pipelines.items() if address in self._listed]

    async def run(self) -> None:
        """Keeps all pipelines running until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._discovery.run(self._take))
            while True:
                await asyncio.sleep(_SWEEP_S)
                self._let_go()

    def _take(self, found: Set[Address]) -> None:
        """What discovery has found, in place of what it found before."""
        for address in sorted(found - self._listed):
            self._log.info("pipeline found", address=str(address))
            if address not in self._pipelines:
                self._start(address)
        for address in sorted(self._listed - found):
            self._log.info("pipeline no longer found", address=str(address))
        self._listed = frozenset(found)

    def _start(self, address: Address) -> None:
        assert self._tasks is not None, "pipelines are found while the fleet runs"
        pipeline = self._pipelines[address] = self._make(address)
        self._running[address] = self._tasks.create_task(pipeline.run())

    def _let_go(self) -> None:
        """Ends what is neither found nor used."""
        for address, pipeline in tuple(self._pipelines.items()):
            if address not in self._listed and not pipeline.in_use:
                del self._pipelines[address]
                self._running.pop(address).cancel()
