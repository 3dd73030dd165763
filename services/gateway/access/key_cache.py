"""Checks API keys against the store, with a short memory of what it said.

A revoked key stops within ``CACHE_S`` and the time of a call.  Where the store does not answer, what it said last
counts for ``OUTAGE_S`` at most, so that a gateway that is cut off from it does not accept a revoked key for longer.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.key_records import ApiKeyRecord
from live_avatar.services.gateway.access.key_store import ApiKeyStore
from live_avatar.services.gateway.access.refusals import credential_expired, credential_invalid, key_revoked
from live_avatar.services.gateway.store.redis_access import store_lost
from live_avatar.serving.errors import ServiceError

CACHE_S = 2.0
OUTAGE_S = 5.0
_READ_S = 2.0
"""For the answer of the store."""
_MOST = 10_000
_NOBODY = bytes(32)
"""Compared where there is no key, so that this takes the same time."""


@dataclass(frozen=True)
class _Entry:
    record: ApiKeyRecord | None
    read_at: float
    """On our clock, before the store was asked."""
    store_ms: int
    """On the store's clock, when it answered."""

    def is_expired(self, now: float) -> bool:
        """The key has expired, by the clock of the store."""
        assert self.record is not None, "asked of keys that there are"
        return 0 < self.record.expire_ms <= self.store_ms + (now - self.read_at) * 1000


class KeyCache:
    """What is known of API keys; tables of known and of unknown ids are bounded, each for itself.

    Args:
        store: of all keys.
        most: size of each table.
        clock: seconds that only grow.
    """

    def __init__(self, store: ApiKeyStore, most: int = _MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._most = most
        self._clock = clock
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, _Entry] = OrderedDict()
        self._reading: dict[str, asyncio.Task[_Entry]] = {}

    def remembers(self, key: ApiKey) -> bool:
        """Whether this very key, its secret included, was read before: whoever sends it does not guess."""
        entry = self._known.get(key.key_id)
        return entry is not None and entry.record is not None and key.matches(entry.record.digest)

    def forget(self, key_id: str) -> None:
        """Reads a key again at its next use, as it has just been changed."""
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)

    async def check(self, key: ApiKey) -> ApiKeyRecord:
        """The stored key that ``key`` is.

        Raises:
            ServiceError: UNAUTHENTICATED with CREDENTIAL_INVALID, or, to whoever has the right secret, KEY_REVOKED or
                CREDENTIAL_EXPIRED; UNAVAILABLE where the store does not answer.
        """
        entry = self._fresh(key.key_id) or await self._read(key.key_id)
        record = entry.record
        if not key.matches(_NOBODY if record is None else record.digest) or record is None:
            raise credential_invalid()
        if record.revoke_ms:
            raise key_revoked()
        if entry.is_expired(self._clock()):
            raise credential_expired()
        return record

    def _fresh(self, key_id: str) -> _Entry | None:
        entry = self._known.get(key_id) or self._unknown.get(key_id)
        return entry if entry is not None and self._clock() - entry.read_at <= CACHE_S else None

    async def _read(self, key_id: str) -> _Entry:
        """Asks the store, once for all who ask at the same time."""
        reading = self._reading.get(key_id)
        if reading is None:
            reading = self._reading[key_id] = asyncio.create_task(self._ask(key_id))
            reading.add_done_callback(lambda _: self._reading.pop(key_id))
        # Others may wait for the same answer when this call is cancelled.
        return await asyncio.shield(reading)

    async def _ask(self, key_id: str) -> _Entry:
        before = self._known.get(key_id)
        at = self._clock()
        try:
            async with asyncio.timeout(_READ_S):
                record, store_ms = await self._store.read(key_id)
        except TimeoutError:
            return self._remembered(before, store_lost())
        except ServiceError as error:
            return self._remembered(before, error)
        entry = _Entry(record, at, store_ms)
        self._keep(key_id, entry)
        return entry

    def _remembered(self, entry: _Entry | None, error: ServiceError) -> _Entry:
        """What counts while the store is away; raises ``error`` where that is too old."""
        if entry is None or self._clock() - entry.read_at > OUTAGE_S:
            raise error
        return entry

    def _keep(self, key_id: str, entry: _Entry) -> None:
        table, other = (self._unknown, self._known) if entry.record is None else (self._known, self._unknown)
        other.pop(key_id, None)
        table[key_id] = entry
        table.move_to_end(key_id)
        while len(table) > self._most:
            table.popitem(last=False)
