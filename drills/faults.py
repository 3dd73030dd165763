"""Faults of processes, as an orchestrator meets and mends them."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from drills.process import Process

FREEZE_S = (0.5, 12.0)
REPLACED_S = 10.0
"""An orchestrator's liveness probe has a frozen process replaced after so long."""
RESTART_S = (0.1, 1.0)
"""From a process's end to the start of the next one."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What was done to a process, and when."""

    kind: Literal["kill", "freeze"]
    process: str
    at: float
    """On the monotonic clock."""
    took_s: float
    """Until the process was back."""

    def __str__(self) -> str:
        return f"{self.kind} {self.process}, back after {self.took_s:.1f} s"


def deck(processes: Sequence[Process], rng: random.Random) -> Iterator[Process]:
    """Processes in random order, each as often as the others, without end."""
    while True:
        yield from rng.sample(processes, len(processes))


async def disturb(process: Process, rng: random.Random) -> Fault:
    """Kills or freezes a process; returns when it is back."""
    began = time.monotonic()
    if rng.random() < 0.5:
        process.kill()
        await asyncio.sleep(rng.uniform(*RESTART_S))
        await process.restart()
        return Fault(kind="kill", process=process.name, at=began, took_s=time.monotonic() - began)
    frozen_s = rng.uniform(*FREEZE_S)
    process.freeze()
    await asyncio.sleep(min(frozen_s, REPLACED_S))
    if frozen_s < REPLACED_S:
        process.thaw()
    else:
        process.kill()
        await process.restart()
    return Fault(kind="freeze", process=process.name, at=began, took_s=time.monotonic() - began)


async def replace(process: Process) -> float:
    """Asks a process to end and starts the next one on its port, as a rolling upgrade does; returns the seconds."""
    began = time.monotonic()
    process.terminate()
    await process.wait_ended()
    await process.restart()
    return time.monotonic() - began
