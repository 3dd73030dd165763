"""The client half of a hop: reconnection, and peers that stop, die or lie, in processes of their own."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest, StreamBlocksResponse
from live_avatar.serving.errors import ServiceError, stage_lost
from live_avatar.serving.link import Link
from live_avatar.serving.parts import conditioning_parts
from live_avatar.serving.streams.client import Connection
from live_avatar.serving.timing import HopTiming
from live_avatar.serving.upstream import Context
from tests.serving.fakes import (
    FakeWork,
    Recorder,
    beside,
    block,
    closing,
    key,
    linked,
    opening,
    serving,
    until,
)

ROOT = Path(__file__).parents[2]
SOON_S = 15.0
"""Far less than gRPC's own minute, and enough on a machine that does other work beside."""
WELCOME = StreamBlocksResponse(welcome=StreamBlocksResponse.Welcome(credits=1, ready=True))


@asynccontextmanager
async def far_process(port: int = 0) -> AsyncIterator[tuple[Process, int]]:
    """The end of a chain in another process, and its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.serving.hop_process", str(port), stdout=PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
            while not line.strip().isdigit():
                line = (await process.stdout.readline()).decode()
        yield process, int(line)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


def test_a_killed_peer_is_noticed_at_once_and_found_again_after_its_restart() -> None:
    async def scenario() -> None:
        near = FakeWork()
        async with (
            far_process() as (process, port),
            serving(near, f"127.0.0.1:{port}", name="near") as head,
            linked(head.target) as (link, received),
        ):
            await link.send(opening("a"))
            await until(lambda: len(received.opened) == 1)
            killed_at = time.monotonic()
            process.kill()
            await until(lambda: len(received.failed) == 1)
            assert time.monotonic() - killed_at < SOON_S
            assert (received.failed[0].code, received.failed[0].reason) == (14, "STAGE_LOST")
            await until(lambda: not near.open_sessions and not link.ready)
            await link.send(opening("b"))
            await until(lambda: len(received.failed) == 2)
            assert received.failed[1].reason == "STAGE_LOST"
            async with far_process(port):
                await link.wait_ready(5)
                assert [service.name for service in link.services] == ["near", "far"]
                await link.send(opening("c"))
                await link.send(block("c", 0))
                await until(lambda: len(received.opened) == 2 and received.acks == [0])
                assert received.readiness == [True, False, True] and received.downs == []

    asyncio.run(scenario())


def test_a_frozen_peer_is_noticed_soon() -> None:
    async def scenario() -> None:
        async with far_process() as (process, port), linked(f"127.0.0.1:{port}") as (link, received):
            await link.send(opening("a"))
            await until(lambda: len(received.opened) == 1)
            stopped_at = time.monotonic()
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: len(received.downs) == 1)
            assert received.down_at - stopped_at < SOON_S
            assert received.downs[0].reason == "STAGE_LOST" and not link.ready
            with pytest.raises(ServiceError, match="STAGE_LOST"):
                await link.send(block("a", 0))
            os.kill(process.pid, signal.SIGCONT)
            await link.wait_ready(5)
            assert [service.sessions_open for service in await link.fetch_services()] == [0]

    asyncio.run(scenario())


def test_whoever_waits_for_a_credit_learns_that_the_link_broke() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)

        async def hang(timing: object) -> None:
            await asyncio.Event().wait()

        work.block = lambda block: hang  # type: ignore[method-assign]
        async with serving(work, block_credits=1) as head:
            link, received = Link(head.target, peer="gateway"), Recorder()
            async with beside(link.run(received)):
                await link.wait_ready(5)
                await link.send(opening())
                await link.send(block("a", 0))
                waiting = asyncio.create_task(link.send(block("a", 1)))
                await asyncio.sleep(0.05)
                assert not waiting.done() and link.credits == 0
                await head.stop()
                with pytest.raises(ServiceError, match="STAGE_LOST"):
                    await waiting

    asyncio.run(scenario())


def test_a_block_that_is_no_longer_wanted_costs_no_credit() -> None:
    async def scenario() -> None:
        async with serving(FakeWork(last=True)) as head, linked(head.target) as (link, received):
            await link.send(opening())
            assert not await link.send(block("a", 0), still_needed=lambda: False)
            assert link.credits == 2
            assert await link.send(block("a", 1), still_needed=lambda: True)
            await until(lambda: received.acks == [1])

    asyncio.run(scenario())


def test_a_link_that_is_down_says_so_at_once() -> None:
    async def scenario() -> None:
        link = Link("127.0.0.1:1", peer="gateway")
        recorder = Recorder()
        async with beside(link.run(recorder)):
            with pytest.raises(ServiceError, match="STAGE_LOST"):
                await link.wait_ready(0.2)
            with pytest.raises(ServiceError, match="STAGE_LOST"):
                await link.send(opening())
            link.post(opening())
            assert not link.up and link.services == () and link.credits == 0
        assert recorder.downs == [] and recorder.readiness == []

    asyncio.run(scenario())


def test_a_peer_with_another_model_is_never_ready() -> None:
    async def scenario() -> None:
        async with serving(FakeWork(last=True)) as head:
            link, recorder = Link(head.target, peer="gateway", expected_model_digest="other"), Recorder()
            async with beside(link.run(recorder)):
                with pytest.raises(ServiceError, match="STAGE_LOST"):
                    await link.wait_ready(0.4)
            assert recorder.downs == []

    asyncio.run(scenario())


@asynccontextmanager
async def lying(behaviour: Callable[..., object]) -> AsyncIterator[str]:
    """A server whose StreamBlocks is ``behaviour``; its address."""
    server = grpc.aio.server()
    make: Any = grpc.stream_stream_rpc_method_handler
    handler = make(
        behaviour,
        request_deserializer=StreamBlocksRequest.FromString,
        response_serializer=StreamBlocksResponse.SerializeToString,
    )
    methods = {"StreamBlocks": handler}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("live_avatar.pipeline.v1.PipelineService", methods)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def test_a_peer_that_never_greets_is_given_up() -> None:
    async def silent(requests: object, context: Context) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with lying(silent) as target:
            link = Link(target, peer="gateway", timing=HopTiming(connect_s=0.1))
            async with beside(link.run(Recorder())):
                await asyncio.sleep(0.5)
                assert not link.up

    asyncio.run(scenario())


def test_a_peer_that_greets_and_falls_silent_is_lost_though_its_transport_lives() -> None:
    async def silent_later(requests: object, context: Context) -> None:
        await context.write(WELCOME)
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with lying(silent_later) as target, linked(target, HopTiming(silence_s=0.3)) as (_, received):
            up_at = time.monotonic()
            await until(lambda: len(received.downs) == 1)
            assert 0.2 < received.down_at - up_at < SOON_S
            assert "said nothing" in received.downs[0].message

    asyncio.run(scenario())


def test_a_link_that_breaks_while_it_is_cancelled_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaking(_: Connection[Any, Any]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise stage_lost("the stream broke at the same moment") from None

    monkeypatch.setattr(Connection, "_heartbeats", breaking)

    async def scenario() -> None:
        async with serving(FakeWork()) as near:
            link = Link(near.target, peer="test")
            running = asyncio.create_task(link.run(Recorder()))
            await link.wait_ready(5)
            running.cancel()
            await asyncio.wait([running], timeout=SOON_S)
            assert running.cancelled()

    asyncio.run(scenario())


def test_a_peer_that_acknowledges_what_it_never_got_is_lost() -> None:
    async def generous(requests: object, context: Context) -> None:
        await context.write(WELCOME)
        await context.write(StreamBlocksResponse(ack=StreamBlocksResponse.Ack(index=3)))
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with lying(generous) as target, linked(target) as (_, received):
            await until(lambda: len(received.downs) == 1)
            assert "acknowledged" in received.downs[0].message and received.acks == []

    asyncio.run(scenario())


def test_a_peer_that_ends_its_stream_in_good_order_is_dialled_again() -> None:
    streams: list[float] = []

    async def brief(requests: object, context: Context) -> None:
        streams.append(time.monotonic())
        await context.write(WELCOME)

    async def scenario() -> None:
        async with lying(brief) as target:
            recorder = Recorder()
            async with beside(Link(target, peer="gateway").run(recorder)):
                await until(lambda: len(streams) == 4)
            # A stream that ends before its welcome was read never stood, and so does not go down.
            assert {down.reason for down in recorder.downs} == {"STAGE_LOST"}
            # Pauses of 0.1, 0.2 and 0.4 s, each cut by half at most.
            assert streams[3] - streams[0] >= 0.35

    asyncio.run(scenario())


def test_readiness_far_below_travels_up_with_who_is_there() -> None:
    async def scenario() -> None:
        async with (
            far_process() as (process, port),
            serving(FakeWork(), f"127.0.0.1:{port}", name="middle") as middle,
            serving(FakeWork(), middle.target, name="first") as first,
            linked(first.target) as (link, received),
        ):
            assert [service.name for service in link.services] == ["first", "middle", "far"]
            process.kill()
            await until(lambda: not link.ready, 1.0)
            assert middle.hop.ready is False and received.downs == []
            async with far_process(port):
                await link.wait_ready(5)
                assert [service.name for service in link.services] == ["first", "middle", "far"]

    asyncio.run(scenario())


def test_a_caller_that_is_killed_leaves_nothing_open() -> None:
    async def scenario() -> None:
        work = FakeWork(last=True)
        async with serving(work) as far:
            script = CALLER.replace("TARGET", repr(far.target))
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=ROOT)
            try:
                await until(lambda: bool(work.open_sessions), 20)
                process.kill()
                killed_at = time.monotonic()
                await until(lambda: not work.open_sessions)
                assert time.monotonic() - killed_at < SOON_S
            finally:
                await process.wait()

    asyncio.run(scenario())


CALLER = """
import asyncio
from tests.serving.fakes import linked, opening

async def main():
    async with linked(TARGET) as (link, _):
        await link.send(opening())
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_close_takes_the_place_of_what_waits_for_its_session() -> None:
    async def scenario() -> None:
        near = FakeWork(last=True)
        async with serving(near) as head, linked(head.target) as (link, received):
            for name in ("goes", "stays"):
                await link.send(opening(name))
            await until(lambda: len(received.opened) == 2)
            for name in ("goes", "stays") * 20:
                (request,) = conditioning_parts(key(name), 0, b"prompt")
                await link.send(request)
            link.post(closing("goes"))
            await until(lambda: near.done.count("condition stays") == 20)
            assert "condition goes" not in near.done
            await until(lambda: "close goes" in near.done)

    asyncio.run(scenario())
