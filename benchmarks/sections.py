"""The measurements, each of which starts its own pipeline and ends it.

A section returns flat keys with numbers.  ``docs/performance/bench.md`` explains each key and its target.
"""

import asyncio
import itertools
import statistics
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stats, timeline
from benchmarks.conversation import reactions
from benchmarks.hop import round_trips
from benchmarks.pipeline import EmulatedPipeline, Emulation
from benchmarks.sessions import STEADY_FROM, Run, offline, portrait
from live_avatar.client import AvatarClient
from live_avatar.config import TINY, TINY_128, Preset
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import DECODER, ENCODER, GATEWAY, LocalPipeline, Plan

STAGES = parse_layout("4x1")
ONE_STAGE = parse_layout("1x4")
STEP_MS, DECODE_MS = 150.0, 100.0
FAST_STEP_MS, FAST_DECODE_MS = 20.0, 13.0
SIZE = (704, 384)
"""Of the pictures; one block's latents have 405,504 bytes."""
LATENT_HOPS = ("denoise-stage-1", "denoise-stage-2", "denoise-stage-3", DECODER)
"""Services that latents come to."""
REPEATS = 3
FIRST_VIDEOS = 7
SHARING = 4
SWITCHES = 50
HOP_BYTES = (4_096, 184_320, 405_504, 589_824, 1_622_016)
"""Small; audio tokens; latents; both, as they travel between stages; latents of four times the pixels."""
_WARM_BLOCKS = 12
_TIMELINE_S = 4.0

Numbers = dict[str, float]


@dataclass(frozen=True)
class Workplace:
    """Where a section leaves files."""

    out: Path

    @property
    def logs(self) -> Path:
        """Folder of what the services log."""
        return self.out / "logs" / "bench"


def tiny(place: Workplace) -> Numbers:
    """The real services with the small systems: media seconds per second."""
    return {f"{preset.name.lower()}_realtime_factor": _realtime_factor(preset, place) for preset in (TINY, TINY_128)}


def _realtime_factor(preset: Preset, place: Workplace) -> float:
    async def measure(gateway: str) -> float:
        async with AvatarClient(gateway) as client:
            image = portrait(512, 512)
            await offline(client, image, _WARM_BLOCKS, preset, "fmp4")
            rates = [(await offline(client, image, 50, preset, "fmp4")).frames_per_second for _ in range(REPEATS)]
        return statistics.median(rates)

    with LocalPipeline(Plan(layout=STAGES, preset=preset.name, logs=place.logs), _quiet) as pipeline:
        return asyncio.run(measure(pipeline.gateway)) / preset.stream.fps


def fast(place: Workplace) -> Numbers:
    """Steps of 20 ms, which leave little room for anything else."""
    emulation = Emulation(layout=STAGES, step_ms=FAST_STEP_MS, decode_ms=FAST_DECODE_MS)
    blocks = 200

    async def measure(pipeline: EmulatedPipeline) -> Numbers:
        gateway = pipeline.services[GATEWAY].process.pid
        efficiencies, control_ms, gateway_ms = [], [], []
        async with AvatarClient(pipeline.gateway) as client:
            await offline(client, portrait(*SIZE), 100, emulation.preset)
            for _ in range(REPEATS):
                clock = CpuClock(gateway)
                run = await offline(client, portrait(*SIZE), blocks, emulation.preset, on_steady=clock.start)
                blocks_counted = len(run.units) - STEADY_FROM - 1
                control_ms.append(1000 * clock.loop_s / blocks_counted)
                gateway_ms.append(1000 * clock.process_s / blocks_counted)
                efficiencies.append(_efficiency(run, emulation))
        return {
            "pipeline_efficiency_20ms": statistics.median(efficiencies),
            "control_ms_per_block": statistics.median(control_ms),
            "gateway_ms_per_block": statistics.median(gateway_ms),
        }

    return _emulated(emulation, place, measure)


def steps(place: Workplace) -> Numbers:
    """Steps of 150 ms, as on a large accelerator: efficiency, hops, first video, and the picture of it all."""
    traces = place.out / "traces"
    emulation = Emulation(layout=STAGES, step_ms=STEP_MS, decode_ms=DECODE_MS, traces=traces)

    async def measure(pipeline: EmulatedPipeline) -> Numbers:
        async with AvatarClient(pipeline.gateway) as client:
            await offline(client, portrait(*SIZE), _WARM_BLOCKS, emulation.preset)
            runs = [await offline(client, portrait(*SIZE), 60, emulation.preset) for _ in range(REPEATS)]
            firsts = [await offline(client, portrait(*SIZE), 2, emulation.preset) for _ in range(FIRST_VIDEOS)]
        services = (ENCODER, *(f"denoise-stage-{one.start}" for one in STAGES.stages), DECODER)
        spans = timeline.read_traces(traces, services, runs[0].session_id)
        title = f"Real services and gateway, steps of {STEP_MS:.0f} ms, decoding of {DECODE_MS:.0f} ms"
        picture = place.out / "timeline.png"
        timeline.draw(spans, picture, title=title, seconds=_TIMELINE_S, steady_from=STEADY_FROM)
        hops = [hop for run in runs for hop in run.hops_s(*LATENT_HOPS)]
        gaps = [after - before for run in runs for before, after in itertools.pairwise(run.arrivals[STEADY_FROM:])]
        return {
            "pipeline_efficiency_150ms": statistics.median(_efficiency(run, emulation) for run in runs),
            "fps_4x1": statistics.median(run.frames_per_second for run in runs),
            "transport_share_p50": 1000 * stats.percentile(hops, 50) / STEP_MS,
            "transport_share_p99": 1000 * stats.percentile(hops, 99) / STEP_MS,
            "ttff_factor": statistics.median(run.first_video_s for run in firsts) / emulation.sum_s,
            "gap_p99_over_p50": stats.percentile(gaps, 99) / stats.percentile(gaps, 50),
        }

    return _emulated(emulation, place, measure)


def sharing(place: Workplace) -> Numbers:
    """Several sessions at once on the pipeline of 150 ms."""
    emulation = Emulation(layout=STAGES, step_ms=STEP_MS, decode_ms=DECODE_MS)

    async def measure(pipeline: EmulatedPipeline) -> Numbers:
        async with AvatarClient(pipeline.gateway) as client:
            await offline(client, portrait(*SIZE), _WARM_BLOCKS, emulation.preset)
            runs = await asyncio.gather(
                *(offline(client, portrait(*SIZE), 30, emulation.preset, seed=seed) for seed in range(SHARING))
            )
        # Only the time in which all have steady work counts: the last ones would gain when the first have ended.
        until = min(run.arrivals[-1] for run in runs)
        since = max(run.arrivals[STEADY_FROM] for run in runs)
        counts = [sum(since <= at <= until for at in run.arrivals) for run in runs]
        rates = [count * run.frames_per_block / (until - since) for run, count in zip(runs, counts, strict=True)]
        shared = {f"session_fps_{number}": rate for number, rate in enumerate(rates)}
        return {"session_fairness": stats.fairness(rates), **shared}

    return _emulated(emulation, place, measure)


def sequential(place: Workplace) -> Numbers:
    """The same steps one after the other in one service, for comparison."""
    emulation = Emulation(layout=ONE_STAGE, step_ms=STEP_MS, decode_ms=DECODE_MS)

    async def measure(pipeline: EmulatedPipeline) -> Numbers:
        async with AvatarClient(pipeline.gateway) as client:
            run = await offline(client, portrait(*SIZE), 24, emulation.preset)
        return {"fps_1x4": run.frames_per_second}

    return _emulated(emulation, place, measure)


def reaction(place: Workplace) -> Numbers:
    """Live delivery on the pipeline of 150 ms: from speech that follows silence to its first block."""
    emulation = Emulation(layout=STAGES, step_ms=STEP_MS, decode_ms=DECODE_MS)

    async def measure(pipeline: EmulatedPipeline) -> Numbers:
        async with AvatarClient(pipeline.gateway) as client:
            await offline(client, portrait(*SIZE), _WARM_BLOCKS, emulation.preset)
            took = await reactions(client, portrait(*SIZE), emulation.preset, SWITCHES)
        return {
            "reaction_factor_mean": statistics.mean(took) / emulation.sum_s,
            "reaction_factor_p99": stats.percentile(took, 99) / emulation.sum_s,
            "reaction_s_mean": statistics.mean(took),
        }

    return _emulated(emulation, place, measure)


def hops(place: Workplace) -> Numbers:
    """One hop on its own, by the size of what travels."""
    place.logs.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for nbytes, times_s in round_trips(place.logs, HOP_BYTES).items():
        for percent in (50, 99):
            numbers[f"round_trip_ms_{nbytes}_p{percent}"] = 1000 * stats.percentile(times_s, percent)
    return numbers


class CpuClock:
    """CPU time of a service from ``start`` on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = _cpu_seconds(pid)

    def start(self) -> None:
        """Begins anew."""
        self._began = _cpu_seconds(self._pid)

    @property
    def loop_s(self) -> float:
        """Seconds of the thread of the event loop: all of our code, and gRPC's Python half."""
        return _cpu_seconds(self._pid)[self._pid] - self._began[self._pid]

    @property
    def process_s(self) -> float:
        """Seconds of all threads: those that move gRPC's bytes too."""
        return sum(_cpu_seconds(self._pid).values()) - sum(self._began.values())


def _cpu_seconds(pid: int) -> dict[int, float]:
    """By thread; of the one that the process began with, the number is the process's own."""
    spent = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            spent[int(thread.name)] = int((thread / "schedstat").read_text().split()[0]) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
    return spent


def _emulated(
    emulation: Emulation, place: Workplace, measure: Callable[[EmulatedPipeline], Coroutine[None, None, Numbers]]
) -> Numbers:
    with EmulatedPipeline(emulation, place.logs, _quiet) as pipeline:
        return asyncio.run(measure(pipeline))


def _efficiency(run: Run, emulation: Emulation) -> float:
    return run.frames_per_second * emulation.slowest_s / run.frames_per_block


def _quiet(line: str) -> None:
    """Drops what the launcher reports: a log has it too."""
