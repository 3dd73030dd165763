"""A pipeline of services that wait, behind the real gateway, as processes on this machine."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from live_avatar.config import S2V_14B, Preset
from live_avatar.launcher.child import Program
from live_avatar.launcher.layout import Layout
from live_avatar.launcher.pipeline import (
    DECODER,
    ENCODER,
    GATEWAY,
    HOST,
    IN_MEMORY,
    LocalPipeline,
    Plan,
    Report,
    with_tls,
)
from live_avatar.launcher.ports import free_ports
from live_avatar.launcher.tls_folder import TlsFolder

ROOT = Path(__file__).resolve().parent.parent
_DRAIN = ("--server.drain-seconds", "1.0")


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """Which services there are, and how long a block takes at each."""

    layout: Layout
    step_ms: float
    """Of one denoising step."""
    decode_ms: float
    preset: Preset = S2V_14B
    """Whose sizes the messages have."""
    traces: Path | None = None
    """Folder that gets one file of ``benchmarks.emulated`` traces per service."""
    gateway_flags: tuple[str, ...] = ()
    tls: TlsFolder | None = None
    """Certificates of all services; None: plain text."""
    api_key: str = ""
    """That callers of the gateway need; empty: none."""

    @property
    def slowest_s(self) -> float:
        """Time of the slowest service: what a perfect pipeline needs per block."""
        longest = max(len(steps) for steps in self.layout.stages)
        return max(self.step_ms * longest, self.decode_ms) / 1000

    @property
    def sum_s(self) -> float:
        """Time that one block needs in all services together: what a perfect pipeline needs for the first block."""
        return (self.step_ms * self.layout.step_count + self.decode_ms) / 1000


class EmulatedPipeline(LocalPipeline):
    """All processes of an emulation, as a context manager; see ``LocalPipeline``."""

    def __init__(self, emulation: Emulation, logs: Path, report: Report) -> None:
        plan = Plan(
            layout=emulation.layout,
            preset=emulation.preset.name,
            logs=logs,
            tls=emulation.tls,
            api_key=emulation.api_key,
        )
        super().__init__(plan, report)
        self._emulation = emulation

    def __enter__(self) -> Self:
        if self._emulation.traces is not None:
            self._emulation.traces.mkdir(parents=True, exist_ok=True)
        with importable():
            return super().__enter__()

    def _programs(self) -> list[tuple[Program, int]]:
        emulation = self._emulation
        stages = [(f"denoise-stage-{steps.start}", steps) for steps in emulation.layout.stages]
        names = [ENCODER, *(name for name, _ in stages), DECODER]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        following = {name: ("--next", f"{HOST}:{ports[after]}") for name, after in itertools.pairwise(names)}
        programs = [
            self._emulated(DECODER, "decoder", emulation.decode_ms),
            self._emulated(ENCODER, "encoder", 0.0, *following[ENCODER]),
        ]
        for name, steps in stages:
            own = ("--steps", ",".join(map(str, steps)), "--step-count", str(emulation.layout.step_count))
            programs.append(self._emulated(name, "stage", emulation.step_ms * len(steps), *own, *following[name]))
        address = f"{HOST}:{ports[ENCODER]}/{HOST}:{ports[DECODER]}"
        flags = ("--pipelines", address, "--store.url", IN_MEMORY, "--allow-shared-devices", *_DRAIN)
        keys = ("--auth.mode", "keys", "--auth.bootstrap-key", emulation.api_key) if emulation.api_key else ()
        gateway = Program(
            name=GATEWAY, module="live_avatar.services.gateway", flags=(*flags, *keys, *emulation.gateway_flags)
        )
        placed = [*((program, ports[program.name]) for program in programs), (gateway, 0)]
        return [(with_tls(program, emulation.tls), port) for program, port in placed]

    def _emulated(self, name: str, role: str, wait_ms: float, *flags: str) -> Program:
        traces = self._emulation.traces
        trace = () if traces is None else ("--trace", str(traces / f"{name}.jsonl"))
        own = ("--role", role, "--wait-ms", str(wait_ms), "--preset", self._emulation.preset.name)
        return Program(name=name, module="benchmarks.emulated", flags=(*own, *flags, *trace, *_DRAIN))


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Lets child processes import this folder, which is not installed."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
