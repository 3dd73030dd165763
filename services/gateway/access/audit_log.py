"""Where the lines of the audit go: a file or stderr, and a Redis stream if asked for.

Lines wait in a bounded queue, so that neither a slow disk nor a lost store holds up a call; what does not fit is
counted, in the metric and in the log.  Knows lines; nothing of what they say.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Sequence
from logging.handlers import WatchedFileHandler
from pathlib import Path
from threading import Lock
from typing import Protocol

import structlog
from redis.asyncio import Redis

from live_avatar.services.gateway.access.audit import Audit
from live_avatar.services.gateway.access.audit_settings import STDERR, AuditSettings
from live_avatar.services.gateway.store.keys import Key
from live_avatar.services.gateway.store.redis_access import reported
from live_avatar.serving.errors import ServiceError

_MAX_WAITING = 10_000
_PERIOD_S = 0.2
_STREAM_S = 3.0
_BATCH = 500


class AuditObserver(Protocol):
    """Learns of lines that could not be kept."""

    def audit_lost(self, sink: str, lines: int) -> None:
        """So many lines did not reach ``sink``: ``queue``, ``file`` or ``stream``."""


class AuditLog:
    """Takes lines and writes them in ``run``.

    Args:
        settings: where to.
        redis: of the store; holds the stream.
        observer: learns of losses.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, settings: AuditSettings, redis: Redis, observer: AuditObserver) -> None:
        self._settings, self._redis, self._observer = settings, redis, observer
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._file = _Counting(_handler(settings.path))
        self._log = structlog.get_logger(__name__)
        self.audit = Audit(self._append)
        """What makes the lines."""

    def _append(self, line: str) -> None:
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append(line)
        else:
            self._lost += 1

    async def run(self) -> None:
        """Writes lines until it is cancelled, and then those that are left."""
        try:
            while True:
                await asyncio.sleep(_PERIOD_S)
                self.audit.flush_repeats()
                await self._write_all()
        finally:
            self.audit.flush_repeats(at_once=True)
            self._file.write(self._taken())
            self._file.close()

    async def aclose(self) -> None:
        """Ends the connections to the store."""
        await self._redis.aclose(close_connection_pool=True)

    async def _write_all(self) -> None:
        while self._waiting:
            lines = self._taken(_BATCH)
            self._report("file", await asyncio.to_thread(self._file.write, lines))
            if self._settings.stream:
                await self._publish(lines)
        lost, self._lost = self._lost, 0
        self._report("queue", lost)

    def _taken(self, most: int = _MAX_WAITING) -> Sequence[str]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    async def _publish(self, lines: Sequence[str]) -> None:
        try:
            async with reported(), asyncio.timeout(_STREAM_S), self._redis.pipeline(transaction=False) as pipe:
                for line in lines:
                    pipe.xadd(
                        Key(self._settings.stream),
                        {"record": line},
                        maxlen=self._settings.stream_length,
                        approximate=True,
                    )
                await pipe.execute()
        except ServiceError:
            self._report("stream", len(lines))

    def _report(self, sink: str, lines: int) -> None:
        if lines:
            self._observer.audit_lost(sink, lines)
            self._log.error("lines of the audit are lost", sink=sink, lines=lines)


class _Counting:
    """A handler of logging whose failures are counted instead of printed.

    It is used without a logger: levels and filters are not for the audit.
    """

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler
        self._failed = 0
        self._writing = Lock()
        handler.handleError = self._count  # type: ignore[method-assign]
        handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, lines: Sequence[str]) -> int:
        """Writes all of ``lines``; returns how many failed."""
        with self._writing:
            self._failed = 0
            for line in lines:
                self._handler.handle(logging.LogRecord("audit", logging.INFO, "", 0, line, None, None))
            return self._failed

    def close(self) -> None:
        """Closes the file, once what is being written is."""
        with self._writing:
            self._handler.close()

    def _count(self, record: logging.LogRecord) -> None:
        self._failed += 1


def _handler(path: str) -> logging.Handler:
    """Appends lines; the file is looked at before each, and opened again where another stands in its place."""
    if path == STDERR:
        return logging.StreamHandler(sys.stderr)
    return WatchedFileHandler(Path(path), encoding="utf-8")
