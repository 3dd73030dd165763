"""Quiet times and storms in one run, and what honest callers noticed in each.

Knows processes and times; nothing of what storms do.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.abuse.callers import VARIABLE, GuardedPipeline, make_key
from tests.abuse.storms import STORMS

ROOT = Path(__file__).parents[2]
START_S = 60.0
END_S = 30.0
CALM_S = 1.0
"""Between the end of a storm and what is measured next."""
ALLOWED_RATIO, ALLOWED_EXTRA_MS = 1.5, 250.0
"""An honest create may take so many times its quiet time, or so many milliseconds more."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the run; ``name`` of a storm, or "quiet"."""

    name: str
    began: float
    ended: float
    done: int = 0
    """How often the storm did what it does."""

    def holds(self, at: float) -> bool:
        """Whether something happened in it."""
        return self.began <= at < self.ended


@contextmanager
def process(key: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A module of this package as a process with an API key, when it is ready; it is gone on exit."""
    command, environment = [sys.executable, "-m", *arguments], {**os.environ, VARIABLE: key}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as running:
        try:
            assert _line(running.stdout) == "ready", f"{arguments} did not start"
            yield running
        finally:
            running.kill()


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def storm(name: str, waiting: subprocess.Popen[str]) -> Phase:
    """Lets a storm go that is ready, and waits for its end."""
    began = time.monotonic()
    assert waiting.stdin is not None
    waiting.stdin.write("\n")
    waiting.stdin.flush()
    done = _line(waiting.stdout)
    ended = time.monotonic()
    assert done.isdigit(), f"the storm {name} broke"
    time.sleep(CALM_S)
    return Phase(name, began, ended, int(done))


def quiet(seconds: float) -> Phase:
    """Does nothing."""
    began = time.monotonic()
    time.sleep(seconds)
    return Phase("quiet", began, time.monotonic())


def run(
    system: GuardedPipeline, *, quiet_s: float, storm_s: float, names: Sequence[str] = tuple(STORMS)
) -> dict[str, Any]:
    """Quiet, all storms one after the other, quiet again; the result of ``evaluated``.

    Those who storm and those who do not are callers of two tenants.
    """
    target = system.gateway
    hostile, honest = (make_key(target, system.operator_key, tenant) for tenant in ("hostile", "honest"))
    with ExitStack() as stack:
        # Programs start before anything is measured: that takes the machine more than most storms do.
        storms = {name: _storming(stack, hostile, name, target, str(storm_s)) for name in names}
        viewer = stack.enter_context(process(honest, "tests.abuse.bystanders", "viewer", target))
        creator = stack.enter_context(process(honest, "tests.abuse.bystanders", "creator", target))
        time.sleep(CALM_S)
        phases = [quiet(quiet_s / 2), *(storm(name, one) for name, one in storms.items()), quiet(quiet_s / 2)]
        creates, watched = (json.loads(one.communicate(timeout=END_S)[0]) for one in (creator, viewer))
    return evaluated(phases, creates, watched["stalls"]) | {"neighbour_ended": watched["ended"]}


def _storming(stack: ExitStack, key: str, *arguments: str) -> subprocess.Popen[str]:
    return stack.enter_context(process(key, "tests.abuse.storms", *arguments))


def evaluated(
    phases: Sequence[Phase], creates: Sequence[tuple[float, float]], stalls: Sequence[float]
) -> dict[str, Any]:
    """What honest callers noticed.

    Args:
        phases: of the run.
        creates: begin and seconds of every honest create; below zero where it failed.
        stalls: when the neighbour's picture stood still.
    """
    calm = [one for one in phases if one.name == "quiet"]
    quiet_s = statistics.median(taken for at, taken in creates if any(one.holds(at) for one in calm))
    storms = {one.name: _noticed(one, creates, stalls, quiet_s) for one in phases if one.name != "quiet"}
    return {
        "honest_create_ratio": max(one["create_ratio"] for one in storms.values()),
        "honest_create_extra_ms": max(one["create_extra_ms"] for one in storms.values()),
        "honest_create_quiet_ms": quiet_s * 1000,
        "honest_creates_failed": sum(one["creates_failed"] for one in storms.values()),
        "honest": all(one["honest"] for one in storms.values()),
        "neighbour_late_blocks": sum(one["late_blocks"] for one in storms.values()),
        "storms_without_effect": [name for name, one in storms.items() if not one["did"]],
        "neighbour_late_blocks_quiet": sum(any(one.holds(at) for one in calm) for at in stalls),
        "storms": storms,
    }


def _noticed(
    phase: Phase, creates: Sequence[tuple[float, float]], stalls: Sequence[float], quiet_s: float
) -> dict[str, Any]:
    taken = [taken for at, taken in creates if phase.holds(at)]
    good = [seconds for seconds in taken if seconds >= 0]
    median = statistics.median(good) if good else float("inf")
    ratio, extra_ms = median / quiet_s, (median - quiet_s) * 1000
    return {
        "did": phase.done,
        "creates": len(taken),
        "creates_failed": len(taken) - len(good),
        "create_ms": median * 1000,
        "create_worst_ms": max(good, default=0.0) * 1000,
        "create_ratio": ratio,
        "create_extra_ms": extra_ms,
        "honest": ratio <= ALLOWED_RATIO or extra_ms <= ALLOWED_EXTRA_MS,
        "late_blocks": sum(phase.holds(at) for at in stalls),
    }
