"""Writes the recovery points of one gateway, many sessions in one round trip, so that no stream waits for the store.

Knows sources and the store; nothing of sessions.
"""

import asyncio
from collections.abc import Iterator

import structlog

from live_avatar.services.gateway.sessions.point_source import PointSource
from live_avatar.services.gateway.store.points import PointWrite, RecoveryPoints
from live_avatar.serving.errors import ServiceError

_MOST_TOGETHER, _MOST_BYTES = 64, 8 << 20
"""Of one round trip, where that is more than one session."""
_PAUSE_S = 0.5
"""After a failure."""


class PointWriter:
    """See the module; ``run`` must run while it is used.

    Args:
        points: where they are stored.
    """

    def __init__(self, points: RecoveryPoints) -> None:
        self._points = points
        self._sources: dict[str, PointSource] = {}
        self._waiting: dict[str, PointSource] = {}
        self._wakes = asyncio.Event()
        self._works = True
        self._log = structlog.get_logger(__name__)

    def add(self, source: PointSource) -> None:
        """Points of a session are written from now on."""
        self._sources[source.session.record.session_id] = source

    def source(self, session_id: str) -> PointSource | None:
        """That of a session; None: nothing of it is stored."""
        return self._sources.get(session_id)

    def note(self, session_id: str) -> None:
        """A session is between two blocks: its point is written soon, or a newer one."""
        source = self._sources.get(session_id)
        if source is not None:
            source.note()
            self._waiting.setdefault(session_id, source)
            self._wakes.set()

    def drop(self, session_id: str) -> None:
        """Writes nothing of a session any more.  Idempotent."""
        self._sources.pop(session_id, None)
        self._waiting.pop(session_id, None)

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self._wakes.wait()
            self._wakes.clear()
            while self._waiting:
                if not await self._write(list(self._next())):
                    await asyncio.sleep(_PAUSE_S)

    def _next(self) -> Iterator[tuple[PointSource, PointWrite]]:
        """What goes into the next round trip, those that wait for longest first."""
        size = 0
        for count, (name, source) in enumerate(tuple(self._waiting.items())):
            if count == _MOST_TOGETHER or size >= _MOST_BYTES:
                return
            del self._waiting[name]
            write = source.build()
            if write is not None:
                size += write.size
                yield source, write

    async def _write(self, writes: list[tuple[PointSource, PointWrite]]) -> bool:
        """Returns whether everything is stored; what is not waits again."""
        try:
            stored = await self._points.write([write for _, write in writes]) if writes else []
        except ServiceError as error:
            self._note(error)
            stored = [False] * len(writes)
        else:
            self._note(None)
        for (source, write), is_stored in zip(writes, stored, strict=True):
            if is_stored:
                source.written(write)
            elif write.session_id in self._sources:
                source.failed(write)
                self._waiting.setdefault(write.session_id, source)
        return all(stored)

    def _note(self, error: ServiceError | None) -> None:
        """Logs when the store fails and when it is back."""
        if error is not None and self._works:
            self._log.warning("recovery points wait for the session store", reason=error.reason)
        elif error is None and not self._works:
            self._log.info("recovery points are stored again")
        self._works = error is None
