"""Quotas of tenants in Redis: what each may use, and what it has used, as all gateways count it.

The functions are parts of transactions of the session store: some read before ``begin``, others write after it.
Sessions at the same time are a sorted set by the end of their leases, calls of a minute a set that expires (so that a
call whose answer is lost counts once), media per day and month counters in milliseconds.  Knows Redis; nothing of
settings or sessions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta

import grpc
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from live_avatar.services.gateway.store.keys import key
from live_avatar.services.gateway.store.redis_access import as_text, begin, now_ms, reported, transact
from live_avatar.serving.errors import QuotaViolation, ServiceError

TENANT_QUOTA = "TENANT_QUOTA"
_MINUTE_MS = 60_000
_CALLS_KEPT_S = 120
_DAYS_KEPT = timedelta(days=3)
_MONTHS_KEPT = timedelta(days=40)
_BUSY_S = 5.0
"""When a tenant that has as many sessions as it may should try again."""


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """What a tenant may use; 0: no limit.  Names as in the public API."""

    max_concurrent_sessions: int = 0
    max_sessions_per_minute: int = 0
    max_media_seconds_per_day: int = 0
    max_media_seconds_per_month: int = 0
    max_session_seconds: int = 0
    max_frame_pixels: int = 0
    max_queued_audio_seconds: int = 0

    def changed(self, values: Mapping[str, int]) -> "Quotas":
        """With other values for some; names that are unknown are left alone."""
        known = {one.name for one in fields(self)}
        return replace(self, **{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True, kw_only=True)
class QuotaUsage:
    """What a tenant has used."""

    concurrent_sessions: int = 0
    sessions_this_minute: int = 0
    media_ms_today: int = 0
    media_ms_this_month: int = 0

    def of(self, quotas: Quotas) -> Mapping[str, tuple[int, int]]:
        """Limit and use, in the unit of the limit, of every quota that is used up bit by bit and has a limit."""
        counted = {
            "max_concurrent_sessions": (quotas.max_concurrent_sessions, self.concurrent_sessions),
            "max_sessions_per_minute": (quotas.max_sessions_per_minute, self.sessions_this_minute),
            "max_media_seconds_per_day": (quotas.max_media_seconds_per_day, self.media_ms_today // 1000),
            "max_media_seconds_per_month": (quotas.max_media_seconds_per_month, self.media_ms_this_month // 1000),
        }
        return {name: (limit, used) for name, (limit, used) in counted.items() if limit}


class QuotaError(ServiceError):
    """RESOURCE_EXHAUSTED/TENANT_QUOTA.

    Args:
        tenant: whose quota it is.
        quota: its name.
        limit: its number.
        problem: what was asked for, or has been used, as the end of a sentence.
        retry_after_s: seconds after which another attempt makes sense; None: it makes none.
    """

    def __init__(self, tenant: str, quota: str, limit: int, problem: str, retry_after_s: float | None = None) -> None:
        message = f"{quota} of tenant {tenant} is {limit}; {problem}"
        facts = {"quota": quota, "limit": str(limit)}
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, TENANT_QUOTA, message, facts, retry_after_s)
        self.quota = quota
        self.violation = QuotaViolation(subject=tenant, description=message)


def concurrent_key(tenant: str) -> str:
    """Sorted set of a tenant's sessions that are not over, by the end of their lease."""
    return key(f"concurrent:{tenant}")


def admissions_key(tenant: str) -> str:
    """Changes with every new session of a tenant, and with nothing else."""
    return key(f"admissions:{tenant}")


def overrides_key(tenant: str) -> str:
    """Hash of the quotas that are the tenant's own."""
    return key(f"quotas:{tenant}")


def _calls_key(tenant: str, now: int) -> str:
    return key(f"calls:{tenant}:{now // _MINUTE_MS}")


def _media_keys(tenant: str, now: int) -> tuple[str, str]:
    """Of the day and of the month."""
    at = _utc(now)
    return key(f"media:{tenant}:{at:%Y-%m-%d}"), key(f"media:{tenant}:{at:%Y-%m}")


async def read_use(redis: Redis | Pipeline, tenant: str, now: int, besides: str = "") -> QuotaUsage:
    """What a tenant has used at ``now``, without the call ``besides``; in a transaction, before ``begin``."""
    sessions = await redis.zcount(concurrent_key(tenant), now, "+inf")
    calls = await redis.scard(_calls_key(tenant, now))
    own = await redis.sismember(_calls_key(tenant, now), besides) if besides else 0
    media = await read_media(redis, tenant, now)
    return replace(media, concurrent_sessions=int(sessions), sessions_this_minute=int(calls) - int(own))


async def read_media(redis: Redis | Pipeline, tenant: str, now: int) -> QuotaUsage:
    """The media that a tenant has used at ``now``; in a transaction, before ``begin``."""
    today, month = await redis.mget(_media_keys(tenant, now))
    return QuotaUsage(media_ms_today=int(today or 0), media_ms_this_month=int(month or 0))


async def exceeded(pipe: Pipeline, tenant: str, call: str, quotas: Quotas, now: int) -> QuotaError | None:
    """The quota that one session more would break; watched until the transaction ends.

    Args:
        pipe: before ``begin``.
        tenant: whose quotas they are.
        call: names the call, so that it does not count itself.
        quotas: of the tenant.
        now: by the clock of Redis.
    """
    if not QuotaUsage().of(quotas):
        return None
    await pipe.watch(admissions_key(tenant))
    return over(tenant, await read_use(pipe, tenant, now, call), quotas, now)


def over(tenant: str, use: QuotaUsage, quotas: Quotas, now: int) -> QuotaError | None:
    """The first quota of which nothing is left."""
    for name, (limit, used) in use.of(quotas).items():
        if used >= limit:
            return QuotaError(tenant, name, limit, f"{used} are used", _wait_s(name, now))
    return None


def count_call(pipe: Pipeline, tenant: str, call: str, now: int) -> None:
    """Counts a call of CreateSession."""
    key = _calls_key(tenant, now)
    pipe.sadd(key, call)
    pipe.expire(key, _CALLS_KEPT_S)


def admit(pipe: Pipeline, tenant: str, session_id: str, now: int, lease_ms: int) -> None:
    """Counts a new session among those at the same time, and lets all others that are admitted now look again."""
    pipe.zremrangebyscore(concurrent_key(tenant), "-inf", f"({now}")
    pipe.set(admissions_key(tenant), session_id, px=lease_ms)


def add_media(pipe: Pipeline, tenant: str, media_ms: int, now: int) -> None:
    """Counts media that was delivered."""
    for period, kept in zip(_media_keys(tenant, now), (_DAYS_KEPT, _MONTHS_KEPT), strict=True):
        pipe.incrby(period, media_ms)
        pipe.expire(period, kept)


class QuotaTable:
    """Quotas that are a tenant's own, and what tenants have used.

    Every method raises ``ServiceError`` like those of the session store.
    """

    def __init__(self, client: Redis) -> None:
        self._redis = client

    async def overrides(self, tenant: str) -> Mapping[str, int]:
        """The quotas that are the tenant's own."""
        async with reported():
            stored = await self._redis.hgetall(overrides_key(tenant))
        return {as_text(name): int(value) for name, value in stored.items() if value.isdigit()}

    async def override(self, tenant: str, values: Mapping[str, int]) -> None:
        """Gives a tenant quotas of its own."""

        async def attempt(pipe: Pipeline) -> None:
            begin(pipe)
            if values:
                pipe.hset(overrides_key(tenant), mapping={name: str(value) for name, value in values.items()})
            await pipe.execute()

        await transact(self._redis, attempt)

    async def use(self, tenant: str) -> QuotaUsage:
        """What a tenant has used."""
        async with reported():
            return await read_use(self._redis, tenant, await now_ms(self._redis))


def _wait_s(quota: str, now: int) -> float:
    """Seconds until some of a quota is free again, or may be."""
    at = _utc(now)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match quota:
        case "max_sessions_per_minute":
            return (_MINUTE_MS - now % _MINUTE_MS) / 1000
        case "max_media_seconds_per_day":
            return (midnight + timedelta(days=1) - at).total_seconds()
        case "max_media_seconds_per_month":
            return ((midnight.replace(day=1) + timedelta(days=32)).replace(day=1) - at).total_seconds()
        case _:
            return _BUSY_S


def _utc(now: int) -> datetime:
    return datetime.fromtimestamp(now / 1000, UTC)
