"""A gateway is killed while a live session speaks: another one goes on, and every frame is that of the primed loop."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from live_avatar.client import AvatarClient
from live_avatar.config import TINY
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import DECODER, ENCODER, LocalPipeline, Plan
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.clients import Request
from tests.services.gateway.conftest import redis_server
from tests.services.gateway.sessions.test_takeover import Listener, gateway_at, gateway_process, resumed

from .harness.running import address
from .test_recovery import OPTIONS, RECORDING, SPEECH, Oracle

pytestmark = pytest.mark.alone

LOG = logging.getLogger(__name__)
PIECE = TINY.samples_per_block
KILLED_AT = 6
__all__ = ["redis_server"]


async def watched(targets: list[str], kill: Callable[[], None]) -> tuple[Listener, int]:
    """A session of the first gateway, which is killed once a block has come, and resumed at the second.

    Returns what came, and how many frames of it from the first.
    """
    async with AvatarClient(targets[0]) as client, asyncio.timeout(150):
        channels = [grpc.aio.insecure_channel(target) for target in targets]
        gateways = [gateway_at(AvatarServiceStub(channel)) for channel in channels]
        for one in gateways:
            await one.wait_ready()
        session = await client.create_session(RECORDING.face, OPTIONS)
        viewer = Listener(gateways[0], session._token)
        await viewer.open()
        for first in range(0, SPEECH.size, PIECE):
            await viewer.speak(SPEECH[first : first + PIECE].tobytes(), first)
        await viewer.say(finish=Request.Finish())
        await viewer.take(lambda seen: seen.next_block >= KILLED_AT)
        kill()
        await viewer.lose()
        before = viewer.frames
        await resumed(viewer, gateways[1])
        await viewer.take()
        for channel in channels:
            await channel.close()
    return viewer, before


def test_frames_after_the_loss_of_a_gateway_are_those_of_the_loop(redis_server: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        plan = Plan(layout=parse_layout("4x1"), logs=tmp_path / "logs")
        tiny = stack.enter_context(LocalPipeline(plan, LOG.info))
        pipeline = f"{address(tiny, ENCODER)}/{address(tiny, DECODER)}"
        flags = (pipeline, redis_server, "--allow-shared-devices")
        running = [stack.enter_context(gateway_process(*flags)) for _ in range(2)]
        targets = [f"127.0.0.1:{port}" for _, port in running]
        seen, before = asyncio.run(watched(targets, running[0][0].kill))
    (event,) = [event for event in seen.events if event.kind == event.KIND_DISCONTINUITY]
    assert event.block_index >= KILLED_AT
    assert seen.speech.startswith(SPEECH.tobytes()), "speech was lost"
    oracle = Oracle()
    expected = oracle.frames()[:before]
    oracle.go_on(event.block_index)
    expected += oracle.frames()[before:]
    assert len(seen.units) == len(expected)
    wrong = [number for number, unit in enumerate(seen.units) if unit.data != expected[number]]
    assert not wrong, f"frames {wrong[:10]} after block {event.block_index}"
