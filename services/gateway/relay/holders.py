"""Other gateways, which hold sessions: calls are passed on to them, a bounded number at a time.

Knows addresses and passages; nothing of sessions.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from live_avatar.services.gateway.relay.channels import Channels
from live_avatar.services.gateway.relay.passage import Passage, PassedCall
from live_avatar.services.gateway.relay.settings import RelaySettings
from live_avatar.services.gateway.waiting import Condition, run_until
from live_avatar.serving.errors import busy, draining
from live_avatar.serving.tls import ClientTls


class Holders:
    """All other gateways; ``run`` must run while it is used.

    Args:
        settings: how they are reached.
        tls: None: in plain text.
    """

    def __init__(self, settings: RelaySettings, tls: ClientTls | None) -> None:
        self._timeout_s = settings.timeout_ms / 1_000
        self._most = settings.max_calls
        self.channels = Channels(tls, settings.idle_seconds, self._timeout_s)
        self._changed = Condition()
        self._running = 0
        self._is_draining = False

    def __len__(self) -> int:
        """Calls that are passed on now."""
        return self._running

    async def run(self) -> NoReturn:
        """See ``Channels.run``."""
        await self.channels.run()

    async def drain(self) -> None:
        """Returns when no call is passed on any more; streams that can go on at another gateway end at once."""
        self._is_draining = True
        self._changed.notify()
        await self._changed.wait_for(lambda: not self._running)

    async def pass_on(self, address: str, call: PassedCall) -> None:
        """Passes a call on to the gateway at ``address``.

        Raises:
            HolderLostError: it does not answer.
            SessionMovedError: it does not hold the session.
            ServiceError: it was lost later, too many calls are passed on, or this gateway drains.
        """
        with self._place():
            if not call.is_resumable:
                await self._pass_on(address, call)
                return
            ended = asyncio.Event()
            passing = self._pass_on(address, call, ended)
            error = await run_until(lambda: self._is_draining, self._changed, passing)
        if error is not None:
            raise error
        if not ended.is_set():
            raise draining("this gateway ends: the stream can be resumed at another one")

    async def _pass_on(self, address: str, call: PassedCall, ended: asyncio.Event | None = None) -> None:
        async with self.channels.borrow(address) as channel:
            await Passage(call, channel).run(self._timeout_s)
        if ended is not None:
            ended.set()

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._running >= self._most:
            raise busy(f"{self._most} calls are passed on to other gateways already")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._changed.notify()
