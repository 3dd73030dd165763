"""Usage records in Redis: a stream, and with each session how far its use is recorded.

A session's gateway counts totals.  A record holds what they grew by since the record before, which the session's hash
remembers together with the record's number: a repetition after a lost answer finds nothing left to record, and what
could not be recorded while the store was away is in the next record.  Knows Redis and records; nothing of clients.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from live_avatar.services.gateway.store import quotas
from live_avatar.services.gateway.store.keys import key
from live_avatar.services.gateway.store.records import OVER, SessionRecord, session_key
from live_avatar.services.gateway.store.redis_access import as_text, begin, now_ms, reported, transact
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.usage_service_pb2 import UsageRecord

STREAM_KEY = key("usage")
DUE_KEY = key("usage_due")
"""Sorted set of sessions that others ended, by the time at which their gateway should have recorded their last use."""
MAX_ENTRIES = 1_000_000
_STATE, _CLAIM = b"usage", b"usage_claim"
"""Fields of a session's hash: ``_Recorded``, and which attempt wrote it."""
_NS_PER_MS = 1_000_000
_DUE_AT_ONCE = 100
_POSITION = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """What was used since some beginning."""

    media_ns: int = 0
    """Media delivered."""
    blocks: int = 0
    service_ns: Mapping[str, int] = field(default_factory=dict)
    """Compute time by service."""

    def since(self, earlier: "Amounts") -> "Amounts":
        """The difference; never negative."""
        spent = {name: ns - earlier.service_ns.get(name, 0) for name, ns in self.service_ns.items()}
        return Amounts(
            media_ns=max(0, self.media_ns - earlier.media_ns),
            blocks=max(0, self.blocks - earlier.blocks),
            service_ns={name: ns for name, ns in spent.items() if ns > 0},
        )

    def at_least(self, earlier: "Amounts") -> "Amounts":
        """The larger of both, part by part."""
        names = {**self.service_ns, **earlier.service_ns}
        return Amounts(
            media_ns=max(self.media_ns, earlier.media_ns),
            blocks=max(self.blocks, earlier.blocks),
            service_ns={name: max(self.service_ns.get(name, 0), earlier.service_ns.get(name, 0)) for name in names},
        )

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps({"media_ns": self.media_ns, "blocks": self.blocks, "service_ns": dict(self.service_ns)})

    @classmethod
    def from_json(cls, stored: bytes | str | None) -> "Amounts":
        """What was stored; nothing where that was nothing, and without what a newer version adds."""
        values: dict[str, Any] = json.loads(stored) if stored else {}
        return cls(**{one.name: values[one.name] for one in fields(cls) if one.name in values})


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """How far a session's use is recorded."""

    epoch: int
    number: int
    """Of the last record."""
    ended: bool
    total: Amounts

    def to_text(self) -> str:
        return f"{self.epoch} {self.number} {int(self.ended)} {self.total.to_json()}"

    @classmethod
    def from_fields(cls, stored: Mapping[Any, Any]) -> "_Recorded | None":
        """None where nothing was recorded, or nothing that can be read: the session has not begun."""
        try:
            epoch, number, ended, total = stored.get(_STATE, b"").split(b" ", 3)
            return cls(epoch=int(epoch), number=int(number), ended=ended == b"1", total=Amounts.from_json(total))
        except ValueError:
            return None


def running_key(session_id: str) -> str:
    """What a session has used so far, by the last renewal of its lease."""
    return key(f"running:{session_id}")


def is_open(stored: Mapping[Any, Any]) -> bool:
    """The last record of a session, given as its hash, is still to be written."""
    recorded = _Recorded.from_fields(stored)
    return recorded is not None and not recorded.ended


class UsageLog:
    """The stream of usage records.

    Every method that waits raises ``ServiceError`` like those of the session store.

    Args:
        client: of Redis.
        max_entries: about so many records are kept.
    """

    def __init__(self, client: Redis, max_entries: int = MAX_ENTRIES) -> None:
        self._redis = client
        self._max_entries = max_entries

    def start(self, pipe: Pipeline, record: SessionRecord, stored: Mapping[Any, Any]) -> None:
        """Writes the first record of a session that begins, once; after ``begin``."""
        if _Recorded.from_fields(stored) is None:
            self._append(pipe, record, UsageRecord.KIND_STARTED, Amounts(), None)

    def end(self, pipe: Pipeline, record: SessionRecord, stored: Mapping[Any, Any], total: Amounts, now: int) -> None:
        """Writes the last record of a session, ``record`` as it is from now on; after ``begin``.

        Args:
            pipe: of the transaction that ends the session.
            record: with state and reason of its end.
            stored: its hash.
            total: all that it has used.
            now: by the clock of Redis.
        """
        recorded = _Recorded.from_fields(stored)
        if recorded is not None and not recorded.ended:
            self._add(pipe, record, UsageRecord.KIND_ENDED, total, recorded, now)
            pipe.delete(running_key(record.session_id))
            pipe.zrem(DUE_KEY, record.session_id)

    async def record(self, record: SessionRecord, total: Amounts) -> quotas.QuotaUsage | None:
        """Records what a session has used since its last record.

        Returns:
            The media that its tenant has used then; None where the session is over, another gateway's or never began.
        """
        claim = secrets.token_bytes(8)

        async def attempt(pipe: Pipeline) -> int | None:
            await pipe.watch(session_key(record.session_id))
            stored = await pipe.hgetall(session_key(record.session_id))
            current, recorded = _read(stored)
            if current is None or recorded is None or recorded.ended or not _is_held(current, record):
                return None
            now = await now_ms(pipe)
            if stored.get(_CLAIM) != claim:
                begin(pipe)
                self._add(pipe, record, UsageRecord.KIND_PROGRESS, total, recorded, now)
                pipe.hset(session_key(record.session_id), _CLAIM, claim)
                await pipe.execute()
            return now

        at = await transact(self._redis, attempt)
        if at is None:
            return None
        async with reported():
            return await quotas.read_media(self._redis, record.tenant, at)

    async def running(self, session_id: str) -> Amounts:
        """What a session had used by the last renewal of its lease."""
        async with reported():
            stored = await self._redis.get(running_key(session_id))
        try:
            return Amounts.from_json(stored)
        except ValueError:
            return Amounts()

    async def late(self) -> Sequence[str]:
        """Sessions that others ended, and whose gateway has not recorded their last use in time; some at once."""
        async with reported():
            now = await now_ms(self._redis)
            names = await self._redis.zrangebyscore(DUE_KEY, "-inf", now, start=0, num=_DUE_AT_ONCE)
        return list(map(as_text, names))

    async def settle(self, session_id: str) -> None:
        """Writes the last record of a session that is over, from what is stored of it."""
        total = await self.running(session_id)

        async def attempt(pipe: Pipeline) -> None:
            await pipe.watch(session_key(session_id))
            stored = await pipe.hgetall(session_key(session_id))
            now = await now_ms(pipe)
            begin(pipe)
            record, _ = _read(stored)
            if record is not None:
                self.end(pipe, record, stored, total, now)
            pipe.zrem(DUE_KEY, session_id)
            await pipe.execute()

        await transact(self._redis, attempt)

    async def read(self, after: str = "", since_ms: int = 0, count: int = 100) -> Sequence[tuple[str, UsageRecord]]:
        """Records with their positions in the stream, oldest first; arguments as of ``read_entries``."""
        entries = await self.read_entries(after, since_ms, count)
        return [(position, entry.record()) for position, entry in entries]

    async def read_entries(
        self, after: str = "", since_ms: int = 0, count: int = 100
    ) -> Sequence[tuple[str, "UsageEntry"]]:
        """Records that are not decoded yet, with their positions in the stream, oldest first.

        Args:
            after: position before the first one; empty: see ``since_ms``.
            since_ms: time of the first one, where ``after`` is empty.
            count: of records at most.
        """
        async with reported():
            first = f"({after}" if after else str(since_ms)
            entries: Any = await self._redis.xrange(STREAM_KEY, min=first, count=count)
        return [(as_text(position), UsageEntry(as_text(position), values)) for position, values in entries]

    async def trim(self, retention_ms: int) -> None:
        """Drops records that are older."""
        async with reported():
            oldest = max(0, await now_ms(self._redis) - retention_ms)
            await self._redis.xtrim(STREAM_KEY, minid=str(oldest), approximate=True)

    def _add(
        self, pipe: Pipeline, record: SessionRecord, kind: int, total: Amounts, recorded: _Recorded, now: int
    ) -> None:
        """Writes a record and counts its media."""
        total = total.at_least(recorded.total)
        media_ms = total.media_ns // _NS_PER_MS - recorded.total.media_ns // _NS_PER_MS
        quotas.add_media(pipe, record.tenant, media_ms, now)
        self._append(pipe, record, kind, total, recorded)

    def _append(
        self, pipe: Pipeline, record: SessionRecord, kind: int, total: Amounts, recorded: _Recorded | None
    ) -> None:
        follows = recorded is not None and recorded.epoch == record.epoch
        number = recorded.number + 1 if recorded is not None and follows else 0
        used = total.since(recorded.total if recorded else Amounts())
        entry = _message(record, kind, number, used)
        pipe.xadd(
            STREAM_KEY,
            {"tenant": record.tenant, "record": entry.SerializeToString()},
            maxlen=self._max_entries,
            approximate=True,
        )
        ended = kind == UsageRecord.KIND_ENDED
        state = _Recorded(epoch=record.epoch, number=number, ended=ended, total=total)
        pipe.hset(session_key(record.session_id), _STATE.decode(), state.to_text())


def check_position(position: str) -> str:
    """``position``, where it is one of a stream; raises ServiceError PAGE_TOKEN_INVALID otherwise."""
    if position and not _POSITION.fullmatch(position):
        code = grpc.StatusCode.INVALID_ARGUMENT
        raise ServiceError(code, "PAGE_TOKEN_INVALID", "the page token is unknown", field="page_token")
    return position


def _read(stored: Mapping[Any, Any]) -> tuple[SessionRecord | None, _Recorded | None]:
    """A session and how far its use is recorded; None where the hash holds no session."""
    try:
        return SessionRecord.from_fields(stored), _Recorded.from_fields(stored)
    except ValueError:
        return None, None


def _is_held(current: SessionRecord, record: SessionRecord) -> bool:
    """The session is stored as running in our epoch."""
    return current.state not in OVER and current.epoch == record.epoch


def _message(record: SessionRecord, kind: int, number: int, used: Amounts) -> UsageRecord:
    message = UsageRecord(
        session_id=record.session_id,
        epoch=record.epoch,
        number=number,
        kind=UsageRecord.Kind.ValueType(kind),
        tenant=record.tenant,
        key_id=record.key_id,
        preset=record.preset,
        blocks=used.blocks,
        end_reason=record.end_reason if kind == UsageRecord.KIND_ENDED else "",
    )
    message.width, message.height = _size(record)
    message.media_time.FromNanoseconds(used.media_ns)
    for service, spent_ns in sorted(used.service_ns.items()):
        message.service_times.add(service=service).compute_time.FromNanoseconds(spent_ns)
    return message


def _size(record: SessionRecord) -> tuple[int, int]:
    """Of the frames; 0 where what is stored is no config."""
    try:
        video = api.SessionConfig.FromString(record.config).video
    except DecodeError:
        return 0, 0
    return video.width, video.height


@dataclass(frozen=True)
class UsageEntry:
    """A record as it is stored: whose it is costs less to see than what it says."""

    position: str
    values: Mapping[Any, Any]

    @property
    def tenant(self) -> str:
        """Whose use it is."""
        return as_text(self.values[b"tenant"])

    @property
    def time_ms(self) -> int:
        """When it was stored, since 1970."""
        return int(self.position.partition("-")[0])

    def record(self) -> UsageRecord:
        """What it says, with the time at which it was stored."""
        message = UsageRecord.FromString(self.values[b"record"])
        message.time.FromMilliseconds(self.time_ms)
        return message
