"""When API keys were last used, written to the store beside the calls that use them.

Knows ids; nothing of callers.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from live_avatar.services.gateway.access.key_store import ApiKeyStore
from live_avatar.serving.errors import ServiceError

_PERIOD_S = 60.0
"""Between two writes of one key."""
_MOST = 10_000


class KeyUse:
    """Notes uses at once and writes them later; ``run`` must run while it is used.

    Args:
        store: of all keys.
        clock: seconds that only grow.
    """

    def __init__(self, store: ApiKeyStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._written: OrderedDict[str, float] = OrderedDict()
        self._due: dict[str, None] = {}
        self._changed = asyncio.Event()
        self._log = structlog.get_logger(__name__)

    def note(self, key_id: str) -> None:
        """A key is used now."""
        now = self._clock()
        if now - self._written.get(key_id, -_PERIOD_S) < _PERIOD_S or len(self._due) >= _MOST:
            return
        self._written[key_id] = now
        self._written.move_to_end(key_id)
        while len(self._written) > _MOST:
            self._written.popitem(last=False)
        self._due[key_id] = None
        self._changed.set()

    async def run(self) -> None:
        """Writes what was noted until cancelled; what cannot be written is dropped."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            due, self._due = self._due, {}
            for key_id in due:
                await self._write(key_id)

    async def _write(self, key_id: str) -> None:
        try:
            await self._store.note_use(key_id)
        except ServiceError as error:
            self._log.warning("the use of an API key is not stored", key_id=key_id, reason=error.reason)
