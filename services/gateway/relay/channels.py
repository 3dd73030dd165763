"""Connections to other gateways: one per address, opened when it is needed, closed when it is idle.

Knows gRPC's channels; nothing of calls.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc

from live_avatar.services.gateway.relay.failures import HolderLostError
from live_avatar.serving.timing import CHANNEL_OPTIONS
from live_avatar.serving.tls import ClientTls, open_channel

_OLDEST_S = 3_600.0
"""Later calls get a new connection, with the certificates of then."""
_PINGS_PER_LOSS = 2


class _Line:
    """One channel and who uses it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._began = self._left = time.monotonic()
        self._users = 0
        self.is_retired = False
        """New calls do not use it."""

    def enter(self) -> None:
        """One more call."""
        self._users += 1

    def leave(self) -> None:
        """One call less."""
        self._users -= 1
        self._left = time.monotonic()

    def retire(self) -> None:
        """It is to be closed with its last call."""
        self.is_retired = True

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self._began > _OLDEST_S

    def is_idle(self, idle_s: float) -> bool:
        """No call uses it, and none will or has lately."""
        return not self._users and (self.is_retired or time.monotonic() - self._left >= idle_s)


class Channels:
    """To all other gateways; ``run`` must run while it is used.

    Args:
        tls: None: plain text.
        idle_s: after which an unused one is closed.
        lost_s: an unanswered ping makes a connection break after twice as long.
    """

    def __init__(self, tls: ClientTls | None, idle_s: float, lost_s: float) -> None:
        self._tls = tls
        self._idle_s = idle_s
        self._options = _options(round(lost_s * 1_000))
        self._lines: dict[str, _Line] = {}
        self._retired: list[_Line] = []

    def __len__(self) -> int:
        return len(self._lines) + len(self._retired)

    async def run(self) -> NoReturn:
        """Closes what is idle until cancelled, and all of it then."""
        try:
            while True:
                await asyncio.sleep(self._idle_s / 4)
                await self._close_idle(self._idle_s)
        finally:
            await self._close_idle(0.0)

    @asynccontextmanager
    async def borrow(self, address: str) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to ``address``; where the body finds that nobody answers, the next call gets another."""
        line = self._line(address)
        line.enter()
        try:
            yield line.channel
        except HolderLostError:
            self._retire(address, line)
            raise
        finally:
            line.leave()

    def _line(self, address: str) -> _Line:
        line = self._lines.get(address)
        if line is not None and line.is_old:
            self._retire(address, line)
        if line is None or line.is_retired:
            line = self._lines[address] = _Line(open_channel(address, self._tls, self._options))
        return line

    def _retire(self, address: str, line: _Line) -> None:
        line.retire()
        if self._lines.get(address) is line:
            del self._lines[address]
            self._retired.append(line)

    async def _close_idle(self, idle_s: float) -> None:
        for address, line in tuple(self._lines.items()):
            if line.is_idle(idle_s):
                self._retire(address, line)
        closing = [line for line in self._retired if line.is_idle(idle_s)]
        self._retired = [line for line in self._retired if line not in closing]
        for line in closing:
            await line.channel.close()


def _options(lost_ms: int) -> tuple[tuple[str, int], ...]:
    own = {
        "grpc.keepalive_time_ms": lost_ms,
        "grpc.keepalive_timeout_ms": _PINGS_PER_LOSS * lost_ms,
        "grpc.http2.ping_timeout_ms": _PINGS_PER_LOSS * lost_ms,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": max(100, lost_ms),
        "grpc.max_reconnect_backoff_ms": max(1_000, lost_ms),
        # What a client does not read waits with the holder, as it would without us.
        "grpc.http2.bdp_probe": 0,
        "grpc.http2.lookahead_bytes": 65_536,
        "grpc.max_receive_message_length": -1,
    }
    return tuple((dict(CHANNEL_OPTIONS) | own).items())
