"""The prompt of one session: the one that holds, and the newest that was asked for instead.

At most one change waits, whatever the client sends, and at most one goes down per admitted block, so that a session
costs the text encoder no more than its share.  Knows nothing of streams or pipelines.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

MAX_WAITING_CALLS = 16
"""Calls of one session that may wait for their change to go down."""
IDLE_PERIOD_S = 1.0
"""A second change of the same block may follow after so long: while no block is admitted, one must not wait for it."""


@dataclass(frozen=True)
class Update:
    """A new prompt on its way."""

    prompt: str
    applied: "asyncio.Future[int]"
    """First block it holds for."""


class Prompts:
    """Changes of ``config.prompt``; all calls from one event loop.

    Args:
        config: of the session; its prompt is always the one that holds from the next block on.
        applied: called with the first block of each change.
    """

    def __init__(self, config: api.SessionConfig, applied: Callable[[int], None]) -> None:
        self._config = config
        self._note_applied = applied
        self._composed = False
        self._pending: Update | None = None
        self._sent_block = -1
        self._sent_at = 0.0
        self._calls = 0

    def compose(self) -> str:
        """The prompt of the first conditioning, which is sent now; later changes need a conditioning of their own."""
        self._composed = True
        return self._config.prompt

    def ask(self, prompt: str, block: int) -> "asyncio.Future[int]":
        """Asks for ``prompt`` in place of whatever waits; ``block`` is the next to be admitted.

        Returns:
            The first block that the newest prompt holds for, once it is known; one answer for all who asked since the
            last change went down.
        """
        applied = self._pending.applied if self._pending else asyncio.get_running_loop().create_future()
        self._pending = Update(prompt, applied)
        if not self._composed or prompt == self._config.prompt:
            self._config.prompt = prompt
            self.apply(self._pending, block)
            self._pending = None
        return applied

    def due(self, block: int) -> bool:
        """Whether a change may go down before ``block``, the next to be admitted."""
        if self._pending is None or not self._composed:
            return False
        return block > self._sent_block or time.monotonic() - self._sent_at >= IDLE_PERIOD_S

    def take(self, block: int) -> Update | None:
        """The change to send down before ``block``; ``apply`` follows.  None where it has become needless."""
        update, self._pending = self._pending, None
        if update is not None:
            self._config.prompt = update.prompt
            self._sent_block, self._sent_at = block, time.monotonic()
        return update

    def apply(self, update: Update, block: int) -> None:
        """``update`` holds from ``block`` on."""
        self._note_applied(block)
        if not update.applied.done():
            update.applied.set_result(block)

    @contextmanager
    def waiting_call(self) -> Iterator[None]:
        """The place of a call that waits for its change.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED; too many wait.
        """
        if self._calls >= MAX_WAITING_CALLS:
            message = f"{MAX_WAITING_CALLS} updates of this session wait already"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", message, retry_after_s=1.0)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
