"""A thousand sessions of each kind come and go through the gateway, and every process is as it was before."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

import grpc
import pytest

from live_avatar.client import AvatarClient, Session, SessionOptions, VideoUnit
from live_avatar.config import preset_json
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan
from live_avatar.v1.avatar_service_pb2 import GetSessionRequest
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from tests.services.gateway.clients import portrait, tone

from .harness.leaks import check_growth
from .harness.processes import Memory
from .harness.running import TRIVIAL, settled

pytestmark = pytest.mark.alone

LOG = logging.getLogger(__name__)
WARM_UP, SESSIONS = 1_000, 1_000
AT_ONCE = 3
CALLS = 100
RATE_HZ = 16_000
OPTIONS = SessionOptions(sample_rate_hz=RATE_HZ, listening="streaming", video="h264")
Use = Callable[[Session, int], Awaitable[None]]


@pytest.fixture(scope="module")
def trivial_system(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """Two stages of two steps that hold of a session what all do and compute next to nothing."""
    folder = tmp_path_factory.mktemp("trivial")
    preset = folder / "trivial.json"
    preset.write_text(preset_json(TRIVIAL))
    plan = Plan(layout=parse_layout("2x2"), preset=str(preset), redis=f"{redis_server}/2", logs=folder / "logs")
    with LocalPipeline(plan, lambda line: None) as running:
        yield running


async def closed(session: Session, number: int) -> None:
    """Is reserved, and closed at once."""
    await session.close()


async def cancelled(session: Session, number: int) -> None:
    """The client opens the stream and is gone: at once, while it speaks, or after the first video."""
    async with session.stream() as stream:
        if number % 10 == 0:
            await stream.send_audio(tone(RATE_HZ))
            while not isinstance(await anext(stream), VideoUnit):
                pass
        elif number % 2:
            await stream.send_audio(tone(RATE_HZ // 2))


async def sessions(client: AvatarClient, count: int, use: Use) -> None:
    """``count`` sessions, a few of them at the same time."""
    image = portrait()
    numbers = iter(range(count))

    async def one_after_the_other() -> None:
        for number in numbers:
            await use(await client.create_session(image, OPTIONS), number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(one_after_the_other())


async def connect_fully(system: LocalPipeline) -> None:
    """Makes the gateway open all the connections to Redis that it ever will; it opens them as they are needed."""
    async with grpc.aio.insecure_channel(system.gateway) as channel:
        stub, nobody = AvatarServiceStub(channel), GetSessionRequest(session_id="0" * 32)
        for _ in range(3):
            await asyncio.gather(*[stub.GetSession(nobody) for _ in range(CALLS)], return_exceptions=True)


async def grown(system: LocalPipeline, use: Use) -> tuple[dict[str, Memory], dict[str, Memory]]:
    """What every process takes after the warm-up, and what after all sessions."""
    await connect_fully(system)
    async with AvatarClient(system.gateway) as client:
        await sessions(client, WARM_UP, use)
        await asyncio.sleep(1)
        before = await settled(system)
        began = time.monotonic()
        await sessions(client, SESSIONS, use)
        LOG.info("%d sessions in %.1f s", SESSIONS, time.monotonic() - began)
        return before, await settled(system, before)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("use", [closed, cancelled])
def test_nothing_is_left_of_a_thousand_sessions(trivial_system: LocalPipeline, use: Use) -> None:
    before, after = asyncio.run(grown(trivial_system, use))
    check_growth(before, after, SESSIONS)
