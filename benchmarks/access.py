"""What TLS and API keys cost: a pipeline with both beside one with neither, measured in turns."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from benchmarks.pipeline import EmulatedPipeline, Emulation
from benchmarks.sections import (
    DECODE_MS,
    FAST_DECODE_MS,
    FAST_STEP_MS,
    SIZE,
    STAGES,
    STEP_MS,
    CpuClock,
    Numbers,
    Workplace,
)
from benchmarks.sessions import STEADY_FROM, offline, portrait
from live_avatar.client import AvatarClient, SessionOptions
from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.launcher.pipeline import GATEWAY
from live_avatar.launcher.tls_folder import TlsFolder, make_certificates
from live_avatar.services.gateway.access.api_key import ApiKey

TURNS = 5
FIRST_VIDEOS = 9
CREATIONS = 40
_WARM_BLOCKS = 100
_BLOCKS = 200


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two pipelines."""

    pipeline: EmulatedPipeline
    client: AvatarClient


@dataclass(frozen=True)
class Pair:
    """Both pipelines, with clients that are connected."""

    plain: Side
    guarded: Side

    def __iter__(self) -> Iterator[Side]:
        return iter((self.plain, self.guarded))


_Measure = Callable[[Pair, Emulation], Coroutine[None, None, Numbers]]


def access(place: Workplace) -> Numbers:
    """TLS on every connection and API keys, against plain text and none."""
    fast = Emulation(layout=STAGES, step_ms=FAST_STEP_MS, decode_ms=FAST_DECODE_MS)
    slow = Emulation(layout=STAGES, step_ms=STEP_MS, decode_ms=DECODE_MS)
    return measured(fast, place, control) | measured(slow, place, latencies)


async def control(pair: Pair, emulation: Emulation) -> Numbers:
    """Time of the gateway's event loop for a block."""
    took: dict[Side, list[float]] = {side: [] for side in pair}
    for side in pair:
        await offline(side.client, portrait(*SIZE), _WARM_BLOCKS, emulation.preset)
    for _ in range(TURNS):
        for side in pair:
            clock = CpuClock(side.pipeline.services[GATEWAY].process.pid)
            run = await offline(side.client, portrait(*SIZE), _BLOCKS, emulation.preset, on_steady=clock.start)
            took[side].append(1000 * clock.loop_s / (len(run.units) - STEADY_FROM - 1))
    plain, guarded = (statistics.median(took[side]) for side in pair)
    return {"plain_control_ms": plain, "tls_control_ms": guarded, "tls_control_ratio": guarded / plain}


async def latencies(pair: Pair, emulation: Emulation) -> Numbers:
    """Time to the first video, and of the creation of a session."""
    first: dict[Side, list[float]] = {side: [] for side in pair}
    created: dict[Side, list[float]] = {side: [] for side in pair}
    for side in pair:
        await offline(side.client, portrait(*SIZE), STEADY_FROM + 4, emulation.preset)
    for _ in range(FIRST_VIDEOS):
        for side in pair:
            run = await offline(side.client, portrait(*SIZE), 2, emulation.preset)
            first[side].append(run.first_video_s)
    for _ in range(CREATIONS):
        for side in pair:
            created[side].append(await _creation_s(side.client))
    ttff_s = [statistics.median(first[side]) for side in pair]
    create_s = [statistics.median(created[side]) for side in pair]
    return {
        "tls_ttff_ratio": ttff_s[1] / ttff_s[0],
        "plain_create_ms": 1000 * create_s[0],
        "auth_create_ms": 1000 * (create_s[1] - create_s[0]),
    }


async def _creation_s(client: AvatarClient) -> float:
    began = time.monotonic()
    session = await client.create_session(portrait(*SIZE), SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ))
    took_s = time.monotonic() - began
    await session.close()
    return took_s


def measured(emulation: Emulation, place: Workplace, measure: _Measure) -> Numbers:
    """What ``measure`` finds of two pipelines that both run, one of them with TLS and keys."""
    key, folder = ApiKey.generate().text, place.logs / "tls"
    make_certificates(folder, ["localhost", "127.0.0.1"], 1)
    guarded = replace(emulation, tls=TlsFolder.open(folder), api_key=key)
    with _running(emulation, place.logs / "plain") as one, _running(guarded, place.logs / "guarded") as other:

        async def run() -> Numbers:
            async with _clients(one, other, key, folder) as pair:
                return await measure(pair, emulation)

        return asyncio.run(run())


@contextmanager
def _running(emulation: Emulation, logs: Path) -> Iterator[EmulatedPipeline]:
    with EmulatedPipeline(emulation, logs, lambda line: None) as pipeline:
        yield pipeline


@asynccontextmanager
async def _clients(plain: EmulatedPipeline, guarded: EmulatedPipeline, key: str, folder: Path) -> AsyncIterator[Pair]:
    encrypted = grpc.ssl_channel_credentials((folder / "ca.crt").read_bytes())
    credentials = grpc.composite_channel_credentials(encrypted, grpc.access_token_call_credentials(key))
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(AvatarClient(plain.gateway))
        other = await stack.enter_async_context(AvatarClient(guarded.gateway, credentials))
        yield Pair(Side(plain, one), Side(guarded, other))
