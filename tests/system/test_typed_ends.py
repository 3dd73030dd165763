"""Whatever ends a process, and whenever: clients learn why in a word that a program can read."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

import pytest

from live_avatar.client import AvatarClient, AvatarError, AvatarStream, Session, SessionOptions
from live_avatar.launcher.child import Child
from live_avatar.launcher.pipeline import DECODER, ENCODER, GATEWAY, LocalPipeline
from tests.services.gateway.clients import portrait, tone

from .harness.running import STAGES, TRIVIAL, ending_system, revive

pytestmark = pytest.mark.alone

RATE_HZ = 16_000
PORTRAIT, SECOND = portrait(), tone(RATE_HZ)
OFFLINE = SessionOptions(sample_rate_hz=RATE_HZ, listening="streaming", video="h264")
LIVE = SessionOptions(sample_rate_hz=RATE_HZ, delivery="live", video="h264")
END_S = 30.0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """A system whose sessions end with their pipeline."""
    with ending_system(tmp_path_factory.mktemp("system"), TRIVIAL) as running:
        yield running


@dataclass
class Ends:
    """With what sessions of each phase ended."""

    errors: dict[str, list[AvatarError]] = field(default_factory=dict)

    def note(self, phase: str, error: AvatarError) -> None:
        self.errors.setdefault(phase, []).append(error)

    def reasons(self) -> Mapping[str, set[str]]:
        return {phase: {error.reason for error in errors} for phase, errors in self.errors.items()}


async def create_all(client: AvatarClient, ends: Ends) -> None:
    """Creates sessions one after the other."""
    while True:
        try:
            await (await client.create_session(PORTRAIT, OFFLINE)).close()
        except AvatarError as error:
            if error.reason != "CAPACITY_EXHAUSTED":
                ends.note("creating", error)
            await asyncio.sleep(0.05)


async def speak(stream: AvatarStream) -> None:
    with suppress(AvatarError):
        for number in count():
            await stream.send_audio(SECOND)
            await asyncio.sleep(0.1 if number < 3 else 1)


@asynccontextmanager
async def speaking(stream: AvatarStream) -> AsyncIterator[None]:
    task = asyncio.create_task(speak(stream))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def watch(session: Session, phase: str, ends: Ends, begun: asyncio.Event) -> None:
    try:
        async with session.stream(resume=False) as stream, speaking(stream):
            async for _ in stream:
                begun.set()
    except AvatarError as error:
        ends.note(phase, error)


@asynccontextmanager
async def busy(client: AvatarClient, ends: Ends) -> AsyncIterator[None]:
    """Sessions in all phases; when the context ends, all that were open have ended."""
    waiting = await client.create_session(PORTRAIT, OFFLINE)
    begun = [asyncio.Event(), asyncio.Event()]
    async with asyncio.TaskGroup() as tasks:
        for event, (phase, options) in zip(begun, {"offline": OFFLINE, "live": LIVE}.items(), strict=True):
            session = await client.create_session(PORTRAIT, options)
            tasks.create_task(watch(session, phase, ends, event))
        for event in begun:
            await event.wait()
        creating = [tasks.create_task(create_all(client, ends)) for _ in range(2)]
        await asyncio.sleep(0.2)
        yield
        await asyncio.sleep(0.3)
        for one in creating:
            one.cancel()
    await watch(waiting, "unopened", ends, asyncio.Event())


def ended(system: LocalPipeline, victim: str, how: str) -> Ends:
    """With what sessions ended when a process did."""
    revive(system)
    child: Child = system.services[victim]
    ends = Ends()

    async def run() -> None:
        async with asyncio.timeout(END_S), AvatarClient(system.gateway) as client, busy(client, ends):
            child.kill() if how == "killed" else child.terminate()

    asyncio.run(run())
    assert child.reap(END_S)
    return ends


@pytest.mark.parametrize(
    ("victim", "how"),
    [(ENCODER, "killed"), (STAGES[0], "killed"), (DECODER, "killed"), (ENCODER, "asked"), (STAGES[1], "asked")],
)
def test_of_a_service(started: LocalPipeline, victim: str, how: str) -> None:
    ends = ended(started, victim, how)
    assert set(ends.errors) == {"creating", "offline", "live", "unopened"}
    reasons = ends.reasons()
    assert reasons["creating"] <= {"STAGE_LOST", "DRAINING"}
    assert reasons["offline"] == reasons["live"] == reasons["unopened"] == {"STAGE_LOST"}
    assert all(error.retry_after_s is not None for errors in ends.errors.values() for error in errors)


def test_of_a_gateway_that_is_asked(started: LocalPipeline) -> None:
    """Its port is closed in the end: nobody is left there to say why."""
    ends = ended(started, GATEWAY, "asked")
    reasons = ends.reasons()
    assert reasons["offline"] == reasons["live"] == {"DRAINING"}
    assert "DRAINING" in reasons["creating"] <= {"DRAINING", "UNAVAILABLE"}
