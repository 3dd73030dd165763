"""Posts usage records to an address of the operator's: signed batches, in order, at least once.

One gateway at a time posts; the position in the stream is kept in the store and moves on once the receiver has
accepted a batch.  Knows the stream of records and HTTP; nothing of sessions.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import structlog
from google.protobuf.json_format import MessageToDict

from live_avatar.services.gateway.election.leader import LeaderElection
from live_avatar.services.gateway.store.posting import PostingCursor
from live_avatar.services.gateway.store.usage import UsageLog
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.streams.backoff import Backoff
from live_avatar.v1.usage_service_pb2 import UsageRecord

TIMESTAMP_HEADER, SIGNATURE_HEADER = "live-avatar-timestamp", "live-avatar-signature"
_BATCH = 200
_IDLE_S = 1.0
_TIMEOUT_S = 10.0
_LEAST_WAIT_S, _MOST_WAIT_S = 1.0, 60.0
_Position = tuple[str, UsageRecord]


class WebhookPoster:
    """Posts new records again and again; ``run`` must run while it is used.

    Args:
        log: of all records.
        cursor: how far they were posted, and who posts.
        election: the leader posts.
        url: of the receiver.
        secret: key of the signature.
        report_delay: called with the age of the oldest record that was not posted, in seconds; 0: there is none.
        waits: between attempts.
    """

    def __init__(
        self,
        log: UsageLog,
        cursor: PostingCursor,
        election: LeaderElection,
        url: str,
        secret: bytes,
        report_delay: Callable[[float], None],
        waits: Backoff | None = None,
    ) -> None:
        self._log_of_usage = log
        self._cursor = cursor
        self._election = election
        self._url = url
        self._secret = secret
        self._report_delay = report_delay
        self._waits = waits or Backoff(_LEAST_WAIT_S, _MOST_WAIT_S)
        self._log = structlog.get_logger(__name__)

    async def run(self) -> None:
        """Works until cancelled."""
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client:
            while True:
                wait_s = await self._turn(client)
                await asyncio.sleep(wait_s)

    async def _turn(self, client: httpx.AsyncClient) -> float:
        """Posts one batch, where this gateway is the one to do so; returns how long to wait then, in seconds."""
        try:
            if not self._election.is_leader or not await self._cursor.hold():
                self._report_delay(0.0)
                return _IDLE_S
            batch = await self._log_of_usage.read(await self._cursor.position(), count=_BATCH)
            self._report_delay(_age_s(batch))
            if not batch:
                return _IDLE_S
            problem = await self._post(client, batch)
            if problem:
                self._log.warning("usage records were not accepted", records=len(batch), cause=problem)
                return self._waits.next_s()
            await self._cursor.advance(batch[-1][0])
        except ServiceError as error:
            self._log.warning("usage records cannot be posted", reason=error.reason)
            return self._waits.next_s()
        self._waits.reset()
        return 0.0 if len(batch) == _BATCH else _IDLE_S

    async def _post(self, client: httpx.AsyncClient, batch: Sequence[_Position]) -> str:
        """Returns what went wrong; empty where the receiver has accepted the batch.  Its answer is not read."""
        body, now = encode([record for _, record in batch]), str(int(time.time()))
        headers = {
            "content-type": "application/json",
            TIMESTAMP_HEADER: now,
            SIGNATURE_HEADER: signature(self._secret, now, body),
        }
        try:
            async with (
                asyncio.timeout(2 * _TIMEOUT_S),
                client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                return "" if response.is_success else f"HTTP status {response.status_code}"
        except (httpx.HTTPError, TimeoutError) as error:
            return type(error).__name__


def encode(records: Sequence[UsageRecord]) -> bytes:
    """The body for a batch of records."""
    return json.dumps({"records": [_fields(record) for record in records]}).encode()


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of the timestamp, a dot and the body, in hexadecimal, after ``v1=``."""
    return "v1=" + hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _fields(record: UsageRecord) -> dict[str, Any]:
    """A record as JSON, with what identifies it in ``idempotency_key``."""
    fields = MessageToDict(record, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {"idempotency_key": f"{record.session_id}:{record.epoch}:{record.number}", **fields}


def _age_s(batch: Sequence[_Position]) -> float:
    """Of the oldest record."""
    return max(0.0, time.time() - batch[0][1].time.ToMilliseconds() / 1000) if batch else 0.0
