"""What the tests ask of a running system, from outside: readiness, what it holds, what its processes take.

Knows the launcher, the client and the services' own descriptions; knows no network.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from live_avatar.client import AvatarClient, AvatarError
from live_avatar.config import TINY, Preset, preset_json
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import DECODER, ENCODER, GATEWAY, LocalPipeline, Plan

from . import leaks
from .gateway import describe
from .processes import Memory
from .reference import SMALL

QUICK = replace(SMALL, name=TINY.name, max_area=TINY.max_area, dit=replace(SMALL.dit, use_motion=False))
"""Small networks under the rules of ``TINY``: a gateway knows presets by name and reads the rules alone."""
TRIVIAL = replace(
    QUICK,
    dit=replace(QUICK.dit, num_layers=1, audio_layers=(0,)),
    vae=replace(QUICK.vae, multipliers=(1, 1, 1, 1), residual_blocks=1),
    speech=replace(QUICK.speech, position_kernel=16, position_groups=4),
    stream=replace(QUICK.stream, left_context_s=0.2),
)
"""For tests of many sessions or long ones: as little to compute as there can be."""
STAGES = ("denoise-stage-0", "denoise-stage-2")
PIPELINE = (ENCODER, *STAGES, DECODER)
READY_S = 90.0


@contextmanager
def ending_system(folder: Path, preset: Preset) -> Iterator[LocalPipeline]:
    """Two stages of two steps, and a gateway whose sessions end with their pipeline."""
    file = folder / "preset.json"
    file.write_text(preset_json(preset))
    plan = Plan(layout=parse_layout("2x2"), preset=str(file), logs=folder / "logs")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LIVE_AVATAR__LIMITS__RESUME_SECONDS", "0")
        with LocalPipeline(plan, lambda line: None) as running:
            yield running


def address(system: LocalPipeline, name: str) -> str:
    """Where a service listens."""
    return f"127.0.0.1:{system.services[name].port}"


async def ready(target: str, steady_s: float = 0.0) -> None:
    """Returns once the gateway at ``target`` takes sessions, and has done so at every question for ``steady_s``."""
    async with asyncio.timeout(READY_S), AvatarClient(target) as client:
        since: float | None = None
        while since is None or time.monotonic() - since < steady_s:
            if not await _capacity(client):
                since = None
            elif since is None:
                since = time.monotonic()
                continue
            await asyncio.sleep(0.05)


async def _capacity(client: AvatarClient) -> int:
    """Sessions a gateway takes; 0 where none answers."""
    try:
        return (await client.server_info()).session_capacity
    except AvatarError as error:
        assert error.code is grpc.StatusCode.UNAVAILABLE, error
        return 0


def revive(system: LocalPipeline) -> None:
    """Starts every service anew that has ended; returns once the gateway takes sessions."""
    for child in system.ended():
        system.restart(child.program.name)
    asyncio.run(ready(system.gateway))


async def held_by(target: str) -> tuple[int, int]:
    """Sessions and bytes that the service at ``target`` holds."""
    own = (await describe(target)).services[0]
    return own.sessions_open, own.session_bytes


async def held(system: LocalPipeline, name: str) -> tuple[int, int]:
    """Sessions and bytes that a service of the pipeline holds."""
    return await held_by(address(system, name))


async def freed_at(targets: Iterable[str]) -> None:
    """Returns when no service at ``targets`` holds anything."""
    for target in targets:
        while await held_by(target) != (0, 0):  # noqa: ASYNC110 - another process is asked
            await asyncio.sleep(0.02)


async def freed(system: LocalPipeline, *, besides: str = "") -> None:
    """Returns when no service that lives, or none but one, holds anything."""
    await freed_at(address(system, name) for name in PIPELINE if name != besides)
    if besides != GATEWAY:
        async with AvatarClient(system.gateway) as client:
            while (await client.server_info()).sessions_open:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)


async def settled(system: LocalPipeline, before: Mapping[str, Memory] | None = None) -> dict[str, Memory]:
    """See ``leaks.settled``."""
    pids = {name: child.process.pid for name, child in system.services.items()}
    return await leaks.settled(pids, freed(system), before)
