"""How we talk to Redis: the client, failures in our own terms, and transactions that are repeated until they fit.

Knows Redis; nothing of sessions.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
from fakeredis import FakeAsyncRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError, WatchError

from live_avatar.serving.cancellation import keeping_cancellation
from live_avatar.serving.errors import ServiceError

IN_MEMORY = "memory://"
STORE_LOST = "STORE_LOST"
_ATTEMPTS = 100
_ANSWER_S = 2.0
_CONNECTIONS = 32
_FREE_CONNECTIONS = 1_000_000
"""Those inside the process cost nothing and know no queue."""
_RETRY_AFTER_S = 1.0

_T = TypeVar("_T")


def connect(url: str) -> Redis:
    """A client of the Redis at ``url``; ``memory://`` is one inside this process, for one gateway alone.

    Callers beyond ``_CONNECTIONS`` wait for each other, so none may hold one connection and ask for a second.
    """
    if url == IN_MEMORY:
        client: Redis = FakeAsyncRedis(max_connections=_FREE_CONNECTIONS)
        return client
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_ANSWER_S,
        socket_timeout=_ANSWER_S,
        socket_connect_timeout=_ANSWER_S,
        # One repetition, for a connection that died while idle; every write of ours may be done twice.
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.05), 1),
    )
    return Redis(connection_pool=pool)


@asynccontextmanager
async def reported() -> AsyncIterator[None]:
    """Failures of Redis inside become ``ServiceError`` UNAVAILABLE/STORE_LOST; no cancellation gets lost."""
    try:
        with keeping_cancellation():
            yield
    except WatchError:
        raise
    except (RedisError, OSError) as error:
        message = "the session store does not answer"
        raise ServiceError(grpc.StatusCode.UNAVAILABLE, STORE_LOST, message, retry_after_s=_RETRY_AFTER_S) from error


async def transact(redis: Redis, attempt: Callable[[Pipeline], Awaitable[_T]]) -> _T:
    """Repeats ``attempt`` until nobody has changed meanwhile what it watched; raises like ``reported``."""
    for _ in range(_ATTEMPTS):
        try:
            async with reported(), redis.pipeline(transaction=True) as pipe:
                return await attempt(pipe)
        except WatchError:
            await asyncio.sleep(0)
    message = "the session store is too busy"
    raise ServiceError(grpc.StatusCode.UNAVAILABLE, STORE_LOST, message, retry_after_s=_RETRY_AFTER_S)


def begin(pipe: Pipeline) -> None:
    """From here on commands are collected, to be done at once by ``execute``."""
    pipe.multi()  # type: ignore[no-untyped-call]


def as_text(answer: object) -> str:
    """A string that Redis gave."""
    assert isinstance(answer, bytes), f"Redis answers in bytes, not {type(answer).__name__}"
    return answer.decode()


async def now_ms(redis: Redis | Pipeline) -> int:
    """Milliseconds since 1970 by the clock of Redis; in a transaction, before ``begin``."""
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000
