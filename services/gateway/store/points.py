"""Recovery points in Redis: one hash per session and per gateway that held it, written for many sessions at once.

A gateway that was taken over from writes to a hash that nobody reads any more, and which ends by itself.  Knows Redis
and fields; nothing of what they mean.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from live_avatar.gateway.v1.recovery_point_pb2 import SessionState
from live_avatar.services.gateway.store.records import point_key
from live_avatar.services.gateway.store.redis_access import as_text, now_ms, reported


@dataclass(frozen=True)
class PointWrite:
    """What changes in the point of one session."""

    session_id: str
    epoch: int
    """In which its gateway took it."""
    fields: Mapping[str, bytes]
    removed: Sequence[str]
    """Names of fields that nothing needs any more."""
    state: SessionState
    """Which is stored with it."""
    after: tuple[deque[Any], dict[str, Any]]
    """What its source knows once this is stored."""

    @property
    def size(self) -> int:
        """Bytes of all fields."""
        return sum(map(len, self.fields.values()))


class RecoveryPoints:
    """Points of all sessions.

    Every method raises ``ServiceError`` like those of the session store.

    Args:
        client: of Redis; best one of its own.
        kept_ms: how long a point is kept after it was written last.
    """

    def __init__(self, client: Redis, kept_ms: int) -> None:
        self._redis = client
        self._kept_ms = kept_ms

    async def aclose(self) -> None:
        """Ends the connections."""
        await self._redis.aclose(close_connection_pool=True)

    async def write(self, writes: Sequence[PointWrite]) -> list[bool]:
        """Stores changes in one round trip; returns which of them are stored.

        Each may be done twice, and the fields of one are stored before others of it are removed.
        """
        async with reported(), self._redis.pipeline(transaction=False) as pipe:
            for write in writes:
                key = point_key(write.session_id, write.epoch)
                pipe.hset(key, mapping=cast(Any, dict(write.fields)))
                pipe.hdel(key, *(write.removed or ("",)))
                pipe.pexpire(key, self._kept_ms)
            answers = await pipe.execute(raise_on_error=False)
        return [not isinstance(answer, RedisError) for answer in answers[::3]]

    async def read(self, session_id: str, epoch: int) -> tuple[Mapping[str, bytes], int]:
        """All fields of a point, none where there is no point; and the time by the clock of Redis."""
        async with reported():
            stored: Any = await self._redis.hgetall(point_key(session_id, epoch))
            return {as_text(name): data for name, data in stored.items()}, await now_ms(self._redis)
