"""Measures the pipeline on this machine: ``python -m benchmarks``; ``python -m benchmarks steps tiny``: some sections.

Prints one table and writes ``bench.json`` (flat keys) and ``timeline.png`` to the output folder.  Sections that are
not run keep the numbers they had in the file.  ``docs/performance/bench.md`` says what the keys mean.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import sections
from benchmarks.access import access
from benchmarks.codec_bench import edges
from benchmarks.mark import mark
from benchmarks.networks import networks
from benchmarks.placement import place_sessions
from benchmarks.relay import relay
from benchmarks.sections import Numbers, Workplace
from live_avatar.files import write_text

SECTIONS: Mapping[str, Callable[[Workplace], Numbers]] = {
    "networks": networks,
    "edges": edges,
    "hops": sections.hops,
    "tiny": sections.tiny,
    "fast": sections.fast,
    "steps": sections.steps,
    "sequential": sections.sequential,
    "sharing": sections.sharing,
    "reaction": sections.reaction,
    "access": access,
    "placement": place_sessions,
    "relay": relay,
    "mark": mark,
}


@dataclass(frozen=True)
class Threshold:
    """The value that is wanted of a key."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"


THRESHOLDS: Mapping[str, Threshold] = {
    "pipeline_efficiency_150ms": Threshold(least=0.98),
    "pipeline_efficiency_20ms": Threshold(least=0.90),
    "transport_share_p50": Threshold(most=0.006),
    "transport_share_p99": Threshold(most=0.025),
    "tpp_speedup": Threshold(least=3.8),
    "ttff_factor": Threshold(most=1.1),
    "reaction_factor_mean": Threshold(most=1.25),
    "reaction_factor_p99": Threshold(most=1.5),
    "session_fairness": Threshold(least=0.99),
    "tiny_realtime_factor": Threshold(least=1.0),
    "tiny_128_realtime_factor": Threshold(least=1.0),
    "control_ms_per_block": Threshold(most=2.0),
    "tls_control_ratio": Threshold(most=1.15),
    "tls_ttff_ratio": Threshold(most=1.03),
    "auth_create_ms": Threshold(most=3.0),
    "create_store_commands_ratio": Threshold(most=0.02),
    "create_cpu_ratio": Threshold(most=0.05),
    "relay_cpu_ratio": Threshold(most=0.35),
    "compiled_over_eager": Threshold(least=1.5),
    "mark_share": Threshold(most=0.03),
}


def main() -> None:
    """Runs the sections that were asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the pipeline on this machine.")
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the results")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    place, console = Workplace(arguments.out), Console()
    place.out.mkdir(parents=True, exist_ok=True)
    file = place.out / "bench.json"
    results: dict[str, float | str] = json.loads(file.read_text()) if arguments.sections and file.exists() else {}
    for name in arguments.sections or SECTIONS:
        with console.status(f"{name}: {SECTIONS[name].__doc__}"):
            results |= SECTIONS[name](place)
        results |= compared(results) | {"machine": machine()}
        write_text(file, json.dumps(results, indent=1) + "\n")
    console.print(table(results))
    console.print(f"written to {place.out}")


def compared(results: Mapping[str, float | str]) -> Numbers:
    """Ratios between sections, where both have been measured."""
    many, one = results.get("fps_4x1"), results.get("fps_1x4")
    if not isinstance(many, float) or not isinstance(one, float):
        return {}
    return {"tpp_speedup": many / one}


def table(results: Mapping[str, float | str], thresholds: Mapping[str, Threshold] = THRESHOLDS) -> Table:
    """All numbers, with what is wanted of them."""
    made = Table(title=str(results["machine"]))
    made.add_column("key")
    made.add_column("value", justify="right")
    made.add_column("wanted", justify="right")
    made.add_column("")
    for key, value in sorted(results.items(), key=lambda item: item[0] not in thresholds):
        if isinstance(value, float):
            bar = thresholds.get(key)
            verdict = "" if bar is None else "[green]yes" if bar.holds(value) else "[red]no"
            made.add_row(key, f"{value:.4g}", str(bar or ""), verdict)
    return made


def machine() -> str:
    """Where this runs, in one line."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")), platform.machine()
    )
    load = os.getloadavg()[2]
    software = f"Python {platform.python_version()}, grpcio {version('grpcio')}, torch {version('torch')}"
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}, {software}, load {load:.1f}"


def _cpu_info() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
