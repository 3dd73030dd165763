"""The server half of a hop, alone and in chains of three, over real sockets."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from live_avatar.pipeline.v1.blocks_pb2 import (
    GetServiceInfoRequest,
    GetServiceInfoResponse,
    StreamBlocksRequest,
)
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub
from live_avatar.serving import hop as hop_module
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.hop import HopServer
from live_avatar.serving.timing import PROTOCOL_VERSION, HopTiming, duration
from tests.serving.fakes import (
    DIGEST,
    SESSION_BYTES,
    FakeWork,
    RawStream,
    block,
    chain,
    closing,
    linked,
    opening,
    serving,
    until,
)


def three() -> list[FakeWork]:
    return [FakeWork(), FakeWork(), FakeWork(last=True)]


def test_blocks_of_two_sessions_pass_three_services_in_order() -> None:
    async def scenario() -> None:
        works = three()
        async with chain(works) as [head, *_], linked(head.target) as (link, received):
            for session in ("a", "b"):
                await link.send(opening(session))
            for index in range(10):
                for session in ("a", "b"):
                    await link.send(block(session, index))
            await until(lambda: len(received.acks) == 20)
            await until(lambda: len(works[2].delivered) == 20)
            expected = [f"block {session} {index}" for index in range(10) for session in ("a", "b")]
            for work in works:
                assert [entry for entry in work.done if entry.startswith("block")] == expected
                assert len(work.threads) == 1
            assert [report.index for report in head.observer.reports] == [i for i in range(10) for _ in "ab"]

    asyncio.run(scenario())


def test_every_service_adds_its_timing_and_reports_the_block() -> None:
    async def scenario() -> None:
        works = three()
        works[1].before = lambda what, session: time.sleep(0.05) if what == "block" else None
        async with chain(works) as services, linked(services[0].target) as (link, _):
            await link.send(opening())
            await link.send(block("a", 7))
            await until(lambda: len(works[2].delivered) == 1)
            [(_, _, timings)] = works[2].delivered
            assert [timing.service for timing in timings] == ["service-3", "service-2", "service-1"]
            assert 50_000_000 <= timings[1].compute_time.ToNanoseconds() < 1_000_000_000
            assert timings[0].compute_time.ToNanoseconds() < 50_000_000
            assert all(timing.hop_time.ToNanoseconds() > 0 for timing in timings)
            await until(lambda: all(service.observer.reports for service in services))
            [report] = services[2].observer.reports
            assert report.index == 7 and report.failure == "" and report.traceparent == block("a", 7).block.traceparent
            assert 0 < report.sent_at_ns - report.arrived_at_ns < 5e9

    asyncio.run(scenario())


def test_opened_collects_the_reservations_of_all() -> None:
    async def scenario() -> None:
        async with chain(three()) as services, linked(services[0].target) as (link, received):
            await link.send(opening())
            await until(lambda: len(received.opened) == 1)
            [opened] = received.opened
            assert [(r.service, r.bytes) for r in opened.reservations] == [
                (f"service-{place}", SESSION_BYTES) for place in (3, 2, 1)
            ]
            described = await link.fetch_services()
            assert [(s.name, s.sessions_open, s.session_bytes) for s in described] == [
                (f"service-{place}", 1, SESSION_BYTES) for place in (3, 2, 1)
            ]
            assert [service.name for service in link.services] == ["service-3", "service-2", "service-1"]

    asyncio.run(scenario())


def test_a_description_does_not_wait_for_a_service_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks gets an answer within the time he waits, with the others as they were last seen."""
    describe = HopServer.GetServiceInfo

    async def hangs_at_the_end(hop: HopServer, request: GetServiceInfoRequest, context: Any) -> GetServiceInfoResponse:
        if hop.describe().name == "service-1":
            await asyncio.Event().wait()
        return await describe(hop, request, context)

    monkeypatch.setattr(HopServer, "GetServiceInfo", hangs_at_the_end)

    async def scenario() -> None:
        async with chain(three()) as services, grpc.aio.insecure_channel(services[0].target) as channel:
            answer = await PipelineServiceStub(channel).GetServiceInfo(GetServiceInfoRequest(), timeout=1)
            assert [service.name for service in answer.services] == ["service-3", "service-2", "service-1"]

    asyncio.run(scenario())


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_open_that_fails_anywhere_leaves_nothing_reserved(where: int) -> None:
    async def scenario() -> None:
        works = three()

        def full(what: str, session: str) -> None:
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "KV_MEMORY_EXHAUSTED", "no room")

        works[where].before = full
        async with chain(works) as services, linked(services[0].target) as (link, received):
            await link.send(opening())
            await until(lambda: len(received.failed) == 1)
            [failed] = received.failed
            assert (failed.code, failed.reason) == (8, "KV_MEMORY_EXHAUSTED")
            assert failed.service == f"service-{3 - where}"
            await until(lambda: not any(work.open_sessions for work in works))
            await until(lambda: all(service.hop.describe().sessions_open == 0 for service in services))
            assert received.opened == []
            assert "open a" not in works[2].done

    asyncio.run(scenario())


def test_the_sender_never_has_more_blocks_away_than_credits() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        work.before = lambda what, session: time.sleep(0.01) if what == "block" else None
        async with serving(work, block_credits=2) as head, linked(head.target) as (link, received):
            await link.send(opening())
            assert link.credits == 2
            for index in range(12):
                await link.send(block("a", index))
                assert index + 1 - len(received.acks) <= 2
            await until(lambda: len(received.acks) == 12)
            assert link.credits == 2

    asyncio.run(scenario())


def test_a_block_without_a_credit_ends_the_stream() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        work.before = lambda what, session: time.sleep(0.2) if what == "block" else None
        async with serving(work, block_credits=1) as head, RawStream(head.target) as call:
            await call.write(hello())
            await call.write(opening())
            for index in range(3):
                await call.write(block("a", index))
            error = await call.end()
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CREDITS_EXCEEDED")
            await until(lambda: not work.open_sessions)

    asyncio.run(scenario())


def test_a_smaller_epoch_is_refused_and_a_larger_one_takes_over() -> None:
    async def scenario() -> None:
        works = three()
        async with chain(works) as services, linked(services[0].target) as (link, received):
            await link.send(opening("a", epoch=5))
            await until(lambda: len(received.opened) == 1)
            await link.send(block("a", 0, epoch=4))
            await until(lambda: len(received.failed) == 1)
            assert (received.failed[0].key.epoch, received.failed[0].code, received.failed[0].reason) == (
                4,
                10,
                "STALE_EPOCH",
            )
            await until(lambda: received.acks == [0])
            await link.send(opening("a", epoch=6))
            await until(lambda: len(received.opened) == 2)
            assert (received.failed[1].key.epoch, received.failed[1].reason) == (5, "STALE_EPOCH")
            assert all(work.open_sessions == {("a", 6)} for work in works)
            await link.send(opening("a", epoch=5))
            await until(lambda: len(received.failed) == 3)
            await link.send(block("a", 0, epoch=6))
            await until(lambda: len(works[2].delivered) == 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(("where", "what"), [(0, "block"), (1, "block"), (2, "block"), (2, "deliver")])
def test_one_sessions_failure_leaves_the_others(where: int, what: str) -> None:
    async def scenario() -> None:
        works = three()

        def break_b(happening: str, session: str) -> None:
            if (happening, session) == (what, "b"):
                raise ZeroDivisionError("secret")

        works[where].before = break_b
        async with chain(works) as services, linked(services[0].target) as (link, received):
            await link.send(opening("a"))
            await link.send(opening("b"))
            for index in range(6):
                await link.send(block("a", index))
                await link.send(block("b", index))
            await until(lambda: len(received.acks) == 12)
            await until(lambda: [s for s, _, _ in works[2].delivered] == ["a"] * 6)
            [failed] = received.failed
            assert (failed.key.session_id, failed.code, failed.reason) == ("b", 13, "INTERNAL")
            assert "secret" not in failed.message and failed.service == f"service-{3 - where}"
            await until(lambda: all(work.open_sessions == {("a", 1)} for work in works))
            assert link.credits == 2
            assert services[where].observer.reports[-1].failure in ("", "INTERNAL")
            assert "INTERNAL" in [report.failure for report in services[where].observer.reports]

    asyncio.run(scenario())


def test_a_new_session_waits_behind_no_other_ones_queue() -> None:
    """Of the blocks that lie in all queues of the chain, those at most that the devices have been given already."""

    async def scenario() -> None:
        works = three()
        works[2].before = lambda what, session: time.sleep(0.2 if what == "block" else 0)
        async with chain(works) as services, linked(services[0].target) as (link, received):
            await link.send(opening("a"))
            await until(lambda: len(received.opened) == 1)

            async def send_all() -> None:
                for index in range(16):
                    await link.send(block("a", index))

            sending = asyncio.create_task(send_all())
            await until(lambda: len(works[2].delivered) == 2)
            await link.send(opening("b"))
            await until(lambda: len(received.opened) == 2)
            assert len(works[2].delivered) <= 5
            await sending
            await until(lambda: len(received.acks) == 16)

    asyncio.run(scenario())


def test_the_device_begins_the_next_block_while_the_event_loop_is_busy() -> None:
    async def scenario() -> None:
        work, loop = FakeWork(last=True), asyncio.get_running_loop()
        began: list[float] = []
        busy_until: list[float] = []

        def hold_the_loop() -> None:
            time.sleep(1.0)
            busy_until.append(time.monotonic())

        def before(what: str, session: str) -> None:
            if what != "block":
                return
            began.append(time.monotonic())
            if len(began) == 1:
                time.sleep(0.3)  # the second block comes meanwhile
                loop.call_soon_threadsafe(hold_the_loop)
                time.sleep(0.1)  # the loop is held before this block ends

        work.before = before
        async with serving(work) as head, linked(head.target) as (link, received):
            await link.send(opening())
            await link.send(block("a", 0))
            await link.send(block("a", 1))
            await until(lambda: len(received.acks) == 2)
            assert began[1] < busy_until[0]

    asyncio.run(scenario())


def test_a_block_behind_one_that_failed_is_not_worked_on() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        work.before = lambda what, session: _late_failure() if what == "block" else None
        async with serving(work) as head, linked(head.target) as (link, received):
            await link.send(opening())
            await link.send(block("a", 0))
            await link.send(block("a", 1))
            await until(lambda: sorted(received.acks) == [0, 1])
            assert [failed.reason for failed in received.failed] == ["INTERNAL"]
            await until(lambda: not work.open_sessions)
            assert work.done == ["open a", "close a"]

    asyncio.run(scenario())


def _late_failure() -> None:
    time.sleep(0.2)  # the block behind it comes meanwhile
    raise ZeroDivisionError


def test_close_frees_all_services_and_skips_what_waits() -> None:
    async def scenario() -> None:
        works = three()
        works[0].before = lambda what, session: time.sleep(0.1) if what == "block" else None
        async with chain(works) as services, linked(services[0].target) as (link, received):
            await link.send(opening())
            await until(lambda: len(received.opened) == 1)
            await link.send(block("a", 0))
            await link.send(block("a", 1))
            await link.send(closing())
            await until(lambda: len(received.acks) == 2)
            await until(lambda: not any(work.open_sessions for work in works))
            assert "block a 1" not in works[0].done
            await link.send(closing())
            await link.send(opening("b"))
            await until(lambda: len(received.opened) == 2)
            assert received.failed == []

    asyncio.run(scenario())


def test_the_end_of_a_stream_closes_its_sessions_downstream_and_no_others() -> None:
    async def scenario() -> None:
        works = three()
        async with chain(works) as services, linked(services[0].target) as (stays, received):
            await stays.send(opening("stays"))
            async with linked(services[0].target) as (goes, received_too):
                await goes.send(opening("goes"))
                await until(lambda: len(received.opened) + len(received_too.opened) == 2)
                assert all(len(work.open_sessions) == 2 for work in works)
            await until(lambda: all(work.open_sessions == {("stays", 1)} for work in works))
            await stays.send(block("stays", 0))
            await until(lambda: len(works[2].delivered) == 1)

    asyncio.run(scenario())


def test_a_session_of_another_stream_is_not_found() -> None:
    async def scenario() -> None:
        async with (
            serving(FakeWork(last=True)) as head,
            linked(head.target) as (mine, received),
            linked(head.target) as (other, received_too),
        ):
            await mine.send(opening())
            await until(lambda: len(received.opened) == 1)
            await other.send(block("a", 0))
            await until(lambda: len(received_too.failed) == 1)
            assert (received_too.failed[0].code, received_too.failed[0].reason) == (5, "SESSION_NOT_FOUND")
            await until(lambda: received_too.acks == [0])
            assert received.failed == []

    asyncio.run(scenario())


def test_a_second_open_ends_the_session() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        async with serving(work) as head, linked(head.target) as (link, received):
            await link.send(opening())
            await link.send(opening())
            await until(lambda: [failed.reason for failed in received.failed] == ["DUPLICATE_OPEN"])
            await until(lambda: not work.open_sessions and head.hop.describe().sessions_open == 0)

    asyncio.run(scenario())


def test_a_block_whose_time_is_over_is_not_worked_on() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        work.before = lambda what, session: time.sleep(0.1) if what == "block" else None
        async with serving(work) as head, linked(head.target) as (link, received):
            await link.send(opening())
            await link.send(block("a", 0))
            late = block("a", 1)
            late.block.budget.CopyFrom(duration(20_000_000))
            await link.send(late)
            await until(lambda: [failed.reason for failed in received.failed] == ["BLOCK_DEADLINE"])
            await until(lambda: sorted(received.acks) == [0, 1])
            assert "block a 1" not in work.done

    asyncio.run(scenario())


def test_budget_shrinks_on_the_way() -> None:
    async def scenario() -> None:
        works = [FakeWork(), FakeWork(last=True)]
        works[0].before = lambda what, session: time.sleep(0.05) if what == "block" else None
        seen: list[int] = []
        original = works[1].block
        works[1].block = lambda block: (seen.append(block.budget.ToNanoseconds()), original(block))[1]  # type: ignore[method-assign,func-returns-value]
        async with chain(works) as services, linked(services[0].target) as (link, _):
            await link.send(opening())
            request = block("a", 0)
            request.block.budget.CopyFrom(duration(2_000_000_000))
            await link.send(request)
            await until(lambda: len(seen) == 1)
            assert 0 < seen[0] <= 1_950_000_000

    asyncio.run(scenario())


def test_heartbeats_report_the_age_of_the_block_that_holds_the_device() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        work.before = lambda what, session: time.sleep(0.6) if what == "block" else None
        timing = HopTiming(heartbeat_s=0.1, silence_s=0.5)
        async with serving(work, timing=timing) as head, RawStream(head.target) as call:
            await call.write(hello())
            await call.write(opening())
            await call.write(block("a", 0))
            ages: list[float] = []
            while not any(age > 0.3 for age in ages):
                await call.write(StreamBlocksRequest(heartbeat=StreamBlocksRequest.Heartbeat()))
                response = await call.read()
                if response.HasField("heartbeat"):
                    ages.append(response.heartbeat.oldest_running_block_age.ToNanoseconds() / 1e9)
            assert len(ages) >= 3 and ages == sorted(ages)

    asyncio.run(scenario())


def test_a_work_that_holds_its_thread_is_not_taken_for_lost_before_the_blocks_deadline() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        work.before = lambda what, session: time.sleep(1.2) if what == "block" else None
        timing = HopTiming(heartbeat_s=0.1, silence_s=0.6)
        async with serving(work, timing=timing) as head, linked(head.target, timing) as (link, received):
            await link.send(opening())
            await link.send(block("a", 0))
            await until(lambda: received.acks == [0])
            assert received.downs == []

    asyncio.run(scenario())


def test_a_service_stuck_at_a_block_counts_as_lost_after_the_deadline() -> None:
    async def scenario() -> None:
        works = [FakeWork(), FakeWork(last=True)]
        works[1].before = lambda what, session: time.sleep(1.0) if what == "block" else None
        timing = HopTiming(heartbeat_s=0.05, service_deadline_s=0.3)
        async with chain(works, timing) as services, linked(services[0].target, timing) as (link, received):
            await link.send(opening())
            await link.send(block("a", 0))
            await until(lambda: len(received.failed) == 1)
            assert (received.failed[0].code, received.failed[0].reason) == (14, "STAGE_LOST")
            assert not services[1].hop.alive and not services[0].hop.ready
            await until(lambda: not works[0].open_sessions)
            await until(lambda: not works[1].open_sessions)
            await link.wait_ready(5)

    asyncio.run(scenario())


def test_a_delivery_that_hangs_fails_its_session_after_the_deadline() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)

        async def hang(timing: object) -> None:
            await asyncio.Event().wait()

        work.block = lambda block: hang  # type: ignore[method-assign]
        timing = HopTiming(service_deadline_s=0.2)
        async with serving(work, timing=timing) as head, linked(head.target) as (link, received):
            await link.send(opening())
            await link.send(block("a", 0))
            await until(lambda: [failed.reason for failed in received.failed] == ["BLOCK_DEADLINE"])
            await until(lambda: received.acks == [0])

    asyncio.run(scenario())


def test_close_stops_a_delivery_that_waits() -> None:
    async def scenario() -> None:
        work, started, stopped = FakeWork(last=True), asyncio.Event(), asyncio.Event()

        async def hang(timing: object) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        work.block = lambda block: hang  # type: ignore[method-assign]
        async with serving(work) as head, linked(head.target) as (link, received):
            await link.send(opening())
            await link.send(block("a", 0))
            await until(started.is_set)
            await link.send(closing())
            await until(stopped.is_set)
            await until(lambda: received.acks == [0] and not work.open_sessions)
            assert received.failed == []

    asyncio.run(scenario())


def test_a_thousand_sessions_leave_nothing_behind() -> None:
    async def scenario() -> None:
        works = three()
        async with chain(works) as services, linked(services[0].target) as (link, received):
            before = len(asyncio.all_tasks())
            for number in range(1000):
                await link.send(opening(f"s{number}"))
                await link.send(closing(f"s{number}"))
            await link.send(opening("last"))
            await until(lambda: any(opened.key.session_id == "last" for opened in received.opened), 30)
            await link.send(closing("last"))
            await until(lambda: all(s.hop.describe().sessions_open == 0 for s in services))
            assert not any(work.open_sessions for work in works)
            assert [service.observer.sessions_open for service in services] == [0, 0, 0]
            assert len(asyncio.all_tasks()) <= before

    asyncio.run(scenario())


def test_streams_that_come_and_go_leave_neither_tasks_nor_sessions() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        async with serving(work) as head:
            async with RawStream(head.target) as call:
                await call.write(hello())
                await call.read()
            await asyncio.sleep(0.05)
            before = len(asyncio.all_tasks())
            for number in range(100):
                async with RawStream(head.target) as call:
                    await call.write(hello())
                    await call.write(opening(f"s{number}"))
                    await call.read()
            await until(lambda: head.hop.describe().sessions_open == 0 and not work.open_sessions)
            await until(lambda: len(asyncio.all_tasks()) <= before)
            assert head.observer.sessions_open == 0

    asyncio.run(scenario())


def test_a_chain_without_its_end_refuses_sessions() -> None:
    async def scenario() -> None:
        work = FakeWork()
        async with serving(work, target="127.0.0.1:1") as head, RawStream(head.target) as call:
            await call.write(hello())
            welcome = await call.read()
            assert not welcome.welcome.ready
            await call.write(opening())
            failed = (await call.read()).session_failed
            assert (failed.code, failed.reason, failed.service) == (14, "STAGE_LOST", "service")
            assert work.done == []

    asyncio.run(scenario())


def test_drain_refuses_new_sessions_and_waits_for_the_open_ones() -> None:
    async def scenario() -> None:
        async with serving(FakeWork(last=True)) as head, linked(head.target) as (link, received):
            await link.send(opening("a"))
            await until(lambda: len(received.opened) == 1)
            draining = asyncio.create_task(head.hop.drain())
            await until(lambda: not link.ready)
            await link.send(opening("b"))
            await until(lambda: [failed.reason for failed in received.failed] == ["DRAINING"])
            assert not draining.done()
            await link.send(block("a", 0))
            await until(lambda: received.acks == [0])
            await link.send(closing("a"))
            async with asyncio.timeout(2):
                await draining

    asyncio.run(scenario())


@pytest.mark.parametrize("which", [0, 1, 2])
def test_whoever_sends_sessions_learns_that_a_service_drains(which: int) -> None:
    async def scenario() -> None:
        async with (
            chain([FakeWork(), FakeWork(), FakeWork(last=True)]) as services,
            linked(services[0].target) as (link, _),
        ):
            assert link.ready and not link.draining
            await services[which].hop.drain()
            await until(lambda: link.draining and not link.ready)
            async with RawStream(services[0].target) as later:
                await later.write(hello())
                assert (await later.read()).welcome.draining

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("requests", "code", "reason"),
    [
        ([opening()], grpc.StatusCode.INVALID_ARGUMENT, "HELLO_MISSING"),
        (["hello 99"], grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VERSION"),
        (["other digest"], grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH"),
        (["hello", "hello"], grpc.StatusCode.INVALID_ARGUMENT, "DUPLICATE_HELLO"),
        (["hello", StreamBlocksRequest()], grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED"),
        (["hello", opening("")], grpc.StatusCode.INVALID_ARGUMENT, "SESSION_KEY_MALFORMED"),
        (["hello", opening("x" * 200)], grpc.StatusCode.INVALID_ARGUMENT, "SESSION_KEY_MALFORMED"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_informed_why(
    requests: list[str | StreamBlocksRequest], code: grpc.StatusCode, reason: str
) -> None:
    named = {"hello": hello(), "hello 99": hello(version=99), "other digest": hello(digest="other")}

    async def scenario() -> None:
        async with serving(FakeWork(last=True)) as head, RawStream(head.target) as call:
            for request in requests:
                await call.write(named[request] if isinstance(request, str) else request)
            error = await call.end()
            assert (error.code, error.reason) == (code, reason)

    asyncio.run(scenario())


def test_a_silent_caller_is_given_up() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        async with serving(work, timing=HopTiming(silence_s=0.2)) as head, RawStream(head.target) as call:
            await call.write(hello())
            await call.write(opening())
            await until(lambda: bool(work.open_sessions))
            error = await call.end()
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_LOST")
            await until(lambda: not work.open_sessions)

    asyncio.run(scenario())


def test_service_info_describes_the_chain() -> None:
    async def scenario() -> None:
        async with chain(three()) as [head, *_], grpc.aio.insecure_channel(head.target) as channel:
            answer = await PipelineServiceStub(channel).GetServiceInfo(GetServiceInfoRequest())
            assert answer.ready and [service.name for service in answer.services] == [
                "service-3",
                "service-2",
                "service-1",
            ]
            assert {service.model_digest for service in answer.services} == {DIGEST}

    asyncio.run(scenario())


def hello(version: int = PROTOCOL_VERSION, digest: str = DIGEST) -> StreamBlocksRequest:
    return StreamBlocksRequest(
        hello=StreamBlocksRequest.Hello(protocol_version=version, peer="test", expected_model_digest=digest)
    )


def test_callers_who_say_nothing_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop_module, "MAX_STREAMS", 2)

    async def scenario() -> None:
        async with serving(FakeWork(last=True)) as head, AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(RawStream(head.target)) for _ in range(2)]
            await asyncio.sleep(0.2)
            async with RawStream(head.target) as third:
                error = await third.end()
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")
            for one in silent:
                await one.write(hello())
                assert (await one.read()).HasField("welcome")

    asyncio.run(scenario())
