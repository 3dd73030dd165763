"""How far usage records were posted to the webhook, and which gateway posts them, in Redis.

Knows Redis alone.
"""

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from live_avatar.services.gateway.store.keys import key
from live_avatar.services.gateway.store.redis_access import as_text, begin, reported, transact

_CURSOR_KEY, _HOLDER_KEY = key("usage_posted"), key("usage_poster")
_HELD_MS = 30_000
"""Longer than one batch may take."""


class PostingCursor:
    """The position behind the last record that the receiver has accepted.

    Every method raises ``ServiceError`` like those of the session store.

    Args:
        client: of Redis.
        owner: name of this gateway.
    """

    def __init__(self, client: Redis, owner: str) -> None:
        self._redis = client
        self._owner = owner.encode()

    async def hold(self) -> bool:
        """Whether this gateway is the one that posts, for the next half minute."""

        async def attempt(pipe: Pipeline) -> bool:
            await pipe.watch(_HOLDER_KEY)
            if await pipe.get(_HOLDER_KEY) not in (None, self._owner):
                return False
            begin(pipe)
            pipe.set(_HOLDER_KEY, self._owner, px=_HELD_MS)
            await pipe.execute()
            return True

        return await transact(self._redis, attempt)

    async def position(self) -> str:
        """Of the last record that was accepted; empty: none was."""
        async with reported():
            stored = await self._redis.get(_CURSOR_KEY)
        return as_text(stored) if stored else ""

    async def advance(self, position: str) -> None:
        """The receiver has accepted the records up to ``position``."""
        async with reported():
            await self._redis.set(_CURSOR_KEY, position)
