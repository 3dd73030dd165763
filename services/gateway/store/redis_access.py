"""How we talk to Redis: the client, failures in our own terms, and transactions that are repeated until they fit.

Knows Redis; nothing of sessions.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import grpc
from fakeredis import FakeAsyncRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    WatchError,
)

from live_avatar.services.gateway.store.servers import StoreAddress, connection_arguments
from live_avatar.serving.cancellation import keeping_cancellation
from live_avatar.serving.errors import ServiceError

IN_MEMORY = "memory://"
STORE_LOST = "STORE_LOST"
STORE_REFUSED = "STORE_REFUSED"
_ATTEMPTS = 100
_ANSWER_S = 2.0
_TRANSACTION_S = 3 * _ANSWER_S
"""Longest transaction, its repetitions included."""
_REFUSALS: Mapping[type[RedisError], str] = {
    AuthenticationError: "refuses this gateway's user or password",
    AuthorizationError: "refuses this gateway's user or password",
    NoPermissionError: "refuses a command: this gateway's user lacks a right",
    ReadOnlyError: "is a replica, which takes no writes",
    OutOfMemoryError: "takes no writes, since it has no memory left",
}
"""Redis works and does not do what we need, most often until somebody changes something."""
_REFUSED_WRITES: Mapping[str, str] = {
    "MISCONF": "takes no writes, since it cannot save to its disk",
    "NOREPLICAS": "takes no writes, since too few replicas follow it",
}
"""The same, by the first word of answers that have no class."""
_CONNECTIONS = 32
_FREE_CONNECTIONS = 1_000_000
"""Those inside the process cost nothing and know no queue."""
RETRY_AFTER_S = 1.0

_T = TypeVar("_T")


def connect(address: StoreAddress | str, connections: int = _CONNECTIONS) -> Redis:
    """A client of the Redis at ``address``; ``memory://`` is one inside this process, for one gateway alone.

    Callers beyond ``connections`` wait for each other, so none may hold one connection and ask for a second.

    Raises:
        ValueError: the address is none.
    """
    where = StoreAddress(url=address) if isinstance(address, str) else address
    if where.url == IN_MEMORY:
        client: Redis = FakeAsyncRedis(max_connections=_FREE_CONNECTIONS)
        return client
    arguments: dict[str, Any] = {
        "max_connections": connections,
        "timeout": _ANSWER_S,
        "socket_timeout": _ANSWER_S,
        "socket_connect_timeout": _ANSWER_S,
        # One repetition, for a connection that died while idle; every write of ours may be done twice.
        "retry": Retry(ExponentialBackoff(cap=0.1, base=0.05), 1),
    }
    if where.way:
        return Redis(connection_pool=BlockingConnectionPool(**arguments, **connection_arguments(where)))
    tls = where.tls() if where.url.startswith("rediss:") else {}
    return Redis(connection_pool=BlockingConnectionPool.from_url(where.url, **arguments, **tls))


@asynccontextmanager
async def reported() -> AsyncIterator[None]:
    """Failures of Redis inside become ``ServiceError`` UNAVAILABLE; no cancellation gets lost.

    The reason is STORE_REFUSED where Redis refuses us or our writes, and the message says why; else STORE_LOST.
    """
    with _translated(), keeping_cancellation():
        yield


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except WatchError:
        raise
    except (RedisError, OSError) as error:
        refusal = _refusal(error)
        if refusal:
            raise _unavailable(STORE_REFUSED, f"the session store {refusal}") from error
        raise store_lost() from error


def _refusal(error: Exception) -> str:
    """What Redis refuses, as the end of a sentence; empty: it does not answer."""
    words = str(error).split(maxsplit=1) or [""]
    found = [text for kind, text in _REFUSALS.items() if isinstance(error, kind)]
    return found[0] if found else _REFUSED_WRITES.get(words[0], "")


async def transact(redis: Redis, attempt: Callable[[Pipeline], Awaitable[_T]]) -> _T:
    """Repeats ``attempt`` until nobody has changed meanwhile what it watched; raises like ``reported``.

    It is repeated as well where the connection broke, and then nobody knows whether the last attempt was executed:
    an attempt must recognise what an earlier one has done.
    """
    with _translated():  # the timeout is an OSError
        async with asyncio.timeout(_TRANSACTION_S):
            return await _repeat(redis, attempt)


async def _repeat(redis: Redis, attempt: Callable[[Pipeline], Awaitable[_T]]) -> _T:
    for _ in range(_ATTEMPTS):
        try:
            async with reported(), redis.pipeline(transaction=True) as pipe:
                return await attempt(pipe)
        except WatchError:
            await asyncio.sleep(0)
    raise _unavailable(STORE_LOST, "the session store is too busy")


def store_lost() -> ServiceError:
    """The error of a call that needs the store while it does not answer."""
    return _unavailable(STORE_LOST, "the session store does not answer")


def _unavailable(reason: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.UNAVAILABLE, reason, message, retry_after_s=RETRY_AFTER_S)


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
