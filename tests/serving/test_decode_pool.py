"""Decoding processes: limits on time and memory, who leaves, who waits, and that none outlives its service."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from live_avatar.portrait.limits import PortraitError
from live_avatar.serving.decode_pool import DecodePool, PoolRules
from live_avatar.serving.errors import ServiceError

ACT = "tests.serving.slow_decoding:act"
SOON_S = 10.0
"""Far less than the stand-in would take."""
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="other kernels limit no address space")
Scenario = Callable[[DecodePool], Awaitable[None]]


def with_a_pool(scenario: Scenario, **rules: Any) -> None:
    async def run() -> None:
        async with DecodePool((ACT,), PoolRules(**rules)) as pool:
            await asyncio.wait_for(scenario(pool), 3 * SOON_S)
            pids = pool.pids
        assert not any(is_running(pid) for pid in pids)

    asyncio.run(run())


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.01)


async def echo(pool: DecodePool, caller: str = "") -> None:
    facts, body = await pool.work(ACT, b"echo", {"a": 1}, caller=caller, light=True)
    assert (facts, body) == ({"a": 1}, b"echo")


def test_a_job_gets_its_answer_in_a_process_that_stays() -> None:
    async def scenario(pool: DecodePool) -> None:
        await echo(pool)
        first = set(pool.pids)
        for _ in range(20):
            await echo(pool)
        assert first <= set(pool.pids)
        assert len(pool.pids) <= 3

    with_a_pool(scenario)


@pytest.mark.parametrize("act", [b"wait 60", b"spin"])
def test_what_takes_too_long_ends_with_its_process(act: bytes) -> None:
    async def scenario(pool: DecodePool) -> None:
        await echo(pool)
        began = time.monotonic()
        with pytest.raises(PortraitError, match=r"more than 0\.3 s") as caught:
            await pool.work(ACT, act, {})
        assert caught.value.reason == "IMAGE_TOO_SLOW"
        assert time.monotonic() - began < SOON_S
        await echo(pool)

    with_a_pool(scenario, processes=1, seconds=0.3)


def test_what_computes_for_too_long_is_too_slow_on_any_machine() -> None:
    async def scenario(pool: DecodePool) -> None:
        with pytest.raises(PortraitError, match="more than 1 s") as caught:
            await pool.work(ACT, b"spin", {})
        assert caught.value.reason == "IMAGE_TOO_SLOW"
        for _ in range(3):  # each job has its own second
            await pool.work(ACT, b"wait 0.4", {})

    with_a_pool(scenario, processes=1, cpu_seconds=1, seconds=60)


@LINUX_ONLY
def test_what_takes_too_much_memory_is_refused() -> None:
    async def scenario(pool: DecodePool) -> None:
        with pytest.raises(PortraitError, match="more than 256 MiB") as caught:
            await pool.work(ACT, b"grab", {})
        assert caught.value.reason == "IMAGE_TOO_LARGE"
        await echo(pool)

    with_a_pool(scenario, processes=1, memory_bytes=256 << 20, seconds=SOON_S)


def test_a_decoder_that_breaks_takes_nobody_along() -> None:
    async def scenario(pool: DecodePool) -> None:
        with pytest.raises(PortraitError) as caught:
            await pool.work(ACT, b"die", {})
        assert caught.value.reason == "IMAGE_UNREADABLE"
        await echo(pool)

    with_a_pool(scenario, processes=1)


def test_refusals_and_our_own_faults_are_distinguished(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(pool: DecodePool) -> None:
        with pytest.raises(PortraitError, match="refused on purpose") as refused:
            await pool.work(ACT, b"refuse", {})
        assert refused.value.reason == "IMAGE_UNREADABLE"
        with pytest.raises(ServiceError) as failed:
            await pool.work(ACT, b"fail", {})
        assert failed.value.reason == "INTERNAL"
        assert "on purpose" not in failed.value.message
        await echo(pool)

    with_a_pool(scenario, processes=1)


@pytest.mark.parametrize("act", [b"wait 60", b"spin"])
def test_a_caller_who_leaves_frees_the_process(act: bytes) -> None:
    async def scenario(pool: DecodePool) -> None:
        await echo(pool)
        before = set(pool.pids)
        job = asyncio.create_task(pool.work(ACT, act, {}))
        await asyncio.sleep(0.2)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await until(lambda: not any(is_running(pid) for pid in before))
        await echo(pool)

    with_a_pool(scenario, processes=1, seconds=60, cpu_seconds=60)


def test_a_caller_who_leaves_while_waiting_is_forgotten() -> None:
    async def scenario(pool: DecodePool) -> None:
        running = asyncio.create_task(pool.work(ACT, b"wait 1", {}))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(pool.work(ACT, b"wait 60", {}))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await running
        await echo(pool)

    with_a_pool(scenario, processes=1, seconds=60, cpu_seconds=60)


def test_slow_portraits_of_one_caller_leave_room_for_others() -> None:
    async def scenario(pool: DecodePool) -> None:
        slow = [asyncio.create_task(pool.work(ACT, b"wait 60", {}, caller="a", light=True)) for _ in range(8)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(SOON_S):
            await echo(pool, caller="b")
        for job in slow:
            job.cancel()
        await asyncio.wait(slow)

    with_a_pool(scenario, seconds=60, cpu_seconds=60)


def test_heavy_portraits_of_everybody_leave_room_for_light_ones() -> None:
    async def scenario(pool: DecodePool) -> None:
        slow = [asyncio.create_task(pool.work(ACT, b"wait 60", {}, caller=str(n))) for n in range(8)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(SOON_S):
            await echo(pool, caller="b")
        for job in slow:
            job.cancel()
        await asyncio.wait(slow)

    with_a_pool(scenario, seconds=60, cpu_seconds=60)


def test_more_than_may_wait_is_refused_with_a_time_to_come_back() -> None:
    async def scenario(pool: DecodePool) -> None:
        await echo(pool)
        slow = [asyncio.create_task(pool.work(ACT, b"wait 60", {})) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(ServiceError) as caught:
            await pool.work(ACT, b"wait 60", {})
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CAPACITY_EXHAUSTED",
        )
        assert caught.value.retry_after_s == 1.0
        for job in slow:
            job.cancel()
        await asyncio.wait(slow)

    with_a_pool(scenario, processes=1, max_heavy=2, seconds=60, cpu_seconds=60)


def test_one_with_many_makes_room_and_learns_when_to_come_back() -> None:
    async def scenario(pool: DecodePool) -> None:
        await echo(pool)
        many = [asyncio.create_task(pool.work(ACT, b"wait 60", {}, caller="a")) for _ in range(4)]
        await asyncio.sleep(0.1)
        other = asyncio.create_task(pool.work(ACT, b"echo", {}, caller="b"))
        (refused,), _ = await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
        error = refused.exception()
        assert isinstance(error, ServiceError)
        assert (error.reason, error.retry_after_s) == ("CAPACITY_EXHAUSTED", 1.0)
        for job in many:
            job.cancel()
        await asyncio.wait(many)
        await other

    with_a_pool(scenario, processes=1, max_heavy=3, seconds=60, cpu_seconds=60)


def test_calls_that_wait_when_the_service_ends_are_notified() -> None:
    async def run() -> None:
        async with DecodePool((ACT,), PoolRules(processes=1, seconds=60, cpu_seconds=60)) as pool:
            await echo(pool)
            jobs = [asyncio.create_task(pool.work(ACT, b"wait 60", {})) for _ in range(2)]
            await asyncio.sleep(0.1)
        outcomes = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), SOON_S)
        assert {getattr(outcome, "reason", "") for outcome in outcomes} == {"DRAINING"}

    asyncio.run(run())


def test_a_process_that_died_while_idle_is_replaced() -> None:
    async def scenario(pool: DecodePool) -> None:
        await echo(pool)
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not pool.pids)
        await echo(pool)

    with_a_pool(scenario, processes=1)


def test_processes_that_cannot_start_are_an_error_and_no_endless_wait() -> None:
    async def run() -> None:
        async with DecodePool(("tests.serving.no_such_module:act",), PoolRules(processes=1)) as pool:
            with pytest.raises(ServiceError) as caught:
                await asyncio.wait_for(pool.work(ACT, b"echo", {}), SOON_S)
            assert caught.value.reason == "INTERNAL"

    asyncio.run(run())


@LINUX_ONLY
def test_a_process_sees_nothing_of_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_AVATAR_TOKEN_KEY", "secret")

    async def scenario(pool: DecodePool) -> None:
        _, found = await pool.work(ACT, b"look", {})
        seen = json.loads(found)
        assert not any(name.startswith("LIVE_AVATAR") for name in seen["environment"])
        streams = {"0", "1", "2"}
        others = {where for number, where in seen["files"].items() if number not in streams}
        assert not any(where.startswith(("socket:", "pipe:")) for where in others), seen["files"]
        assert (seen["torch"], seen["grpc"], seen["core"]) == (False, False, 0)
        assert seen["nice"] > os.nice(0)

    read, write = os.pipe()
    try:
        with_a_pool(scenario)
    finally:
        os.close(read)
        os.close(write)


OWNER = """
import asyncio, sys
from live_avatar.serving.decode_pool import DecodePool
async def main():
    async with DecodePool((sys.argv[1],)) as pool:
        await pool.work(sys.argv[1], b"echo", {})
        print(*pool.pids, flush=True)
        await pool.work(sys.argv[1], b"spin", {})
asyncio.run(main())
"""


@LINUX_ONLY
def test_no_process_outlives_a_service_that_is_killed() -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, ACT], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, text=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        owner.kill()
        owner.wait()
    assert pids
    deadline = time.monotonic() + SOON_S
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in pids if is_running(pid)]


def test_a_process_for_another_parent_ends_at_once() -> None:
    command = [sys.executable, "-m", "live_avatar.serving.decode_worker", "1", ACT, str(1 << 30), "1"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=30, check=False).returncode == 1
