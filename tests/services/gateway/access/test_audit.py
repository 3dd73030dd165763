"""Lines of the audit, and where they go."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from live_avatar.services.gateway.access.audit import Audit, Decision, audited_call
from live_avatar.services.gateway.access.audit_log import AuditLog
from live_avatar.services.gateway.access.audit_settings import AuditSettings
from live_avatar.services.gateway.store.redis_access import connect

BAD = Decision(action="CreateSession", peer="192.0.2.7", code="UNAUTHENTICATED", reason="CREDENTIAL_INVALID")


class Losses:
    def __init__(self) -> None:
        self.lines: dict[str, int] = {}

    def audit_lost(self, sink: str, lines: int) -> None:
        self.lines[sink] = self.lines.get(sink, 0) + lines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def parsed(lines: Sequence[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


async def written(settings: AuditSettings, decisions: Sequence[Decision], losses: Losses | None = None) -> None:
    """Records decisions with an audit that then ends."""
    redis: Redis = connect("memory://")
    log = AuditLog(settings, redis, losses or Losses())
    running = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    for decision in decisions:
        log.audit.record(decision)
    running.cancel()
    await asyncio.wait([running])
    await redis.aclose(close_connection_pool=True)


def test_a_decision_is_one_line() -> None:
    lines: list[str] = []
    about = {"key_id": "keyofanother", "scopes": ["usage"]}
    Audit(lines.append).record(
        Decision(action="CreateApiKey", tenant="ops", key_id="keyofops", peer="192.0.2.7", session_id="ab", about=about)
    )
    (line,) = parsed(lines)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "event": "audit", "action": "CreateApiKey", "tenant": "ops", "key_id": "keyofops", "peer": "192.0.2.7",
        "session_id": "ab", "session": "fb8e20fc2e4c", "code": "OK", "reason": "", "about": about,
    }  # fmt: skip


def test_a_flood_is_two_lines_a_second() -> None:
    lines: list[str] = []
    clock = Clock()
    audit = Audit(lines.append, clock)
    for number in range(3_000):
        clock.now = number / 1_000
        audit.record(BAD, ("192.0.2.7", BAD.reason))
    audit.flush_repeats(at_once=True)
    records = parsed(lines)
    assert [record.get("repeated") for record in records] == [None, 999] * 3
    assert {record["reason"] for record in records} == {"CREDENTIAL_INVALID"}


def test_floods_from_everywhere_share_a_line() -> None:
    lines: list[str] = []
    audit = Audit(lines.append, Clock())
    for number in range(5_000):
        audit.record(BAD, number)
    audit.flush_repeats(at_once=True)
    records = parsed(lines)
    assert len(records) == 1_002
    assert (records[-1]["peer"], records[-1]["repeated"]) == ("(others)", 3_999)


def test_what_need_not_be_counted_is_written_each_time() -> None:
    lines: list[str] = []
    audit = Audit(lines.append, Clock())
    for _ in range(100):
        audit.record(BAD)
    assert len(lines) == 100


def test_a_handler_outside_of_calls_has_no_record() -> None:
    audited_call().opened("ab")
    assert audited_call().session_id == ""


def test_lines_are_appended_to_a_file_which_may_be_moved_away(tmp_path: Path) -> None:
    path, moved = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"

    async def scenario() -> None:
        redis: Redis = connect("memory://")
        log = AuditLog(AuditSettings(path=str(path)), redis, Losses())
        running = asyncio.create_task(log.run())
        log.audit.record(BAD)
        await until(path, 1)
        path.rename(moved)
        log.audit.record(BAD)
        await until(path, 1)
        running.cancel()
        await asyncio.wait([running])
        await redis.aclose(close_connection_pool=True)

    async def until(file: Path, lines: int) -> None:
        async with asyncio.timeout(30):
            while lines_of(file) < lines:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.02)

    path.write_text("")
    asyncio.run(scenario())
    assert len(path.read_text().splitlines()) == len(moved.read_text().splitlines()) == 1


def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    asyncio.run(written(AuditSettings(path=str(path)), [BAD] * 700))
    assert len(path.read_text().splitlines()) == 700


def test_without_a_file_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(written(AuditSettings(), [BAD]))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if '"audit"' in line]
    assert json.loads(line)["event"] == "audit"


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        AuditLog(AuditSettings(path=str(tmp_path / "nowhere" / "audit")), connect("memory://"), Losses())


def test_lines_beyond_the_queue_are_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        redis: Redis = connect("memory://")
        log = AuditLog(AuditSettings(path=str(tmp_path / "audit")), redis, losses)
        for _ in range(10_007):
            log.audit.record(BAD)
        running = asyncio.create_task(log.run())
        async with asyncio.timeout(30):
            while "queue" not in losses.lines:  # noqa: ASYNC110 - the log of another task
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.wait([running])
        await redis.aclose(close_connection_pool=True)

    losses = Losses()
    asyncio.run(scenario())
    assert losses.lines == {"queue": 7}
    assert len((tmp_path / "audit").read_text().splitlines()) == 10_000


def test_a_stream_gets_the_lines_too_and_stays_short(redis_server: str, tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        redis = connect(redis_server)
        settings = AuditSettings(path=str(tmp_path / "audit"), stream="audit", stream_length=100)
        log = AuditLog(settings, redis, losses)
        running = asyncio.create_task(log.run())
        for _ in range(1_000):
            log.audit.record(BAD)
        deadline = time.monotonic() + 30
        while not await redis.exists("audit") or len(log._waiting):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        entries: Any = await redis.xrevrange("audit")
        running.cancel()
        await asyncio.wait([running])
        await redis.aclose(close_connection_pool=True)
        return [json.loads(fields[b"record"]) for _, fields in entries]

    losses = Losses()
    records = asyncio.run(scenario())
    assert 100 <= len(records) < 400
    assert records[0]["reason"] == "CREDENTIAL_INVALID"
    assert not losses.lines


def test_a_stream_that_is_away_loses_lines_and_the_file_does_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        redis = connect("redis://127.0.0.1:1/0")
        log = AuditLog(AuditSettings(path=str(tmp_path / "audit"), stream="audit"), redis, losses)
        log.audit.record(BAD)
        running = asyncio.create_task(log.run())
        async with asyncio.timeout(30):
            while not losses.lines:  # noqa: ASYNC110 - the log of another task
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.wait([running])
        await redis.aclose(close_connection_pool=True)

    losses = Losses()
    asyncio.run(scenario())
    assert losses.lines == {"stream": 1}
    assert len((tmp_path / "audit").read_text().splitlines()) == 1
