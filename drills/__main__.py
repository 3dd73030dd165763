"""Disturbs real processes while sessions speak: ``python -m drills``; ``python -m drills kills cuts``: some sections.

Prints one table and writes ``drills.json`` (flat keys) to the output folder.  Sections that are not run keep the
numbers they had in the file.  ``docs/performance/drills.md`` says what the keys mean.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from benchmarks.__main__ import Threshold, machine, table
from drills.cuts import cuts
from drills.handles import handles
from drills.kills import kills
from drills.outages import store
from drills.packages import ProgramMissingError
from drills.place import Numbers, Place
from drills.quality import quality
from drills.round_robin import balancer
from drills.upgrade import upgrade
from live_avatar.config import TINY
from live_avatar.files import write_text
from live_avatar.launcher.child import LaunchError
from tests.system.harness.running import QUICK

SECTIONS: Mapping[str, Callable[[Place], Numbers]] = {
    "kills": kills,
    "cuts": cuts,
    "upgrade": upgrade,
    "store": store,
    "balancer": balancer,
    "handles": handles,
    "quality": quality,
}
THRESHOLDS: Mapping[str, Threshold] = {
    "kills_sessions_lost": Threshold(most=0),
    "kills_wrong_blocks": Threshold(most=0),
    "kills_gap_s_p50": Threshold(most=2),
    "kills_gap_s_p99": Threshold(most=10),
    "audio_samples_lost": Threshold(most=0),
    "resume_blocks_lost": Threshold(most=0),
    "resume_blocks_repeated": Threshold(most=0),
    "resume_s_p50": Threshold(most=0.5),
    "upgrade_sessions_lost": Threshold(most=0),
    "upgrade_gap_s_max": Threshold(most=1),
    "store_sessions_lost": Threshold(most=0),
    "wrong_gateway": Threshold(most=0),
    "handles_accepted": Threshold(most=0),
}


def main() -> int:
    """Runs the sections that were asked for, all by default; the exit status is 1 where a target is missed."""
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    console = Console()
    preset = QUICK if arguments.small else TINY
    place = Place(
        out=arguments.out,
        preset=preset,
        report=lambda line: _report(console, line),
        seed=arguments.seed,
        gateways=arguments.gateways,
        kills=arguments.kills,
        cuts=arguments.cuts,
        sessions=arguments.sessions,
    )
    place.out.mkdir(parents=True, exist_ok=True)
    try:
        results = _run(place, arguments.sections or list(SECTIONS))
    except (LaunchError, ProgramMissingError) as error:
        sys.stderr.write(f"drills: {error}\n")
        return 2
    console.print(table(results, THRESHOLDS))
    console.print(f"written to {place.out}")
    numbers = {key: value for key, value in results.items() if isinstance(value, float) and key in THRESHOLDS}
    return int(not all(THRESHOLDS[key].holds(value) for key, value in numbers.items()))


def _run(place: Place, sections: list[str]) -> dict[str, float | str]:
    file = place.out / "drills.json"
    results: dict[str, float | str] = json.loads(file.read_text()) if file.exists() else {}
    for name in sections:
        place.report(f"{name}: {SECTIONS[name].__doc__}")
        results |= SECTIONS[name](place) | {"preset": place.preset.name, "machine": machine()}
        write_text(file, json.dumps(results, indent=1) + "\n")
    return results


def _report(console: Console, line: str) -> None:
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {line}", highlight=False, markup=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m drills", description="Disturbs real processes under sessions.")
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="of what is random")
    parser.add_argument("--gateways", type=int, default=2, help="that serve the sessions")
    parser.add_argument("--kills", type=int, default=100, help="faults of the section kills")
    parser.add_argument("--cuts", type=int, default=50, help="cuts of the section cuts")
    parser.add_argument("--sessions", type=int, default=200, help="sessions of the section balancer")
    parser.add_argument("--small", action="store_true", help="smaller networks than TINY's, for a busy machine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
