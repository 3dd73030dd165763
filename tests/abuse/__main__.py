"""Storms against the real services on this machine: ``python -m tests.abuse`` writes out/abuse.json."""

import argparse
import json
import os
import sys
from pathlib import Path

from live_avatar.config import TINY
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import Plan
from live_avatar.services.gateway.access.api_key import ApiKey
from tests.abuse.callers import GuardedPipeline
from tests.abuse.measure import run

OUT = Path("out/abuse.json")
QUIET_S, STORM_S = 8.0, 5.0


def main() -> None:
    """Starts the services, measures, writes the result and prints it."""
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("--preset", default=TINY.name, help="name, or .json file that describes one")
    parser.add_argument("--layout", default="1x4", help="stages x steps, as of live-avatar up")
    arguments = parser.parse_args()
    key = ApiKey.generate().text
    plan = Plan(layout=parse_layout(arguments.layout), preset=arguments.preset, logs=Path("out/logs"), api_key=key)
    with GuardedPipeline(plan, lambda line: None) as system:
        result = run(system, quiet_s=QUIET_S, storm_s=STORM_S)
    result |= {"preset": arguments.preset, "layout": arguments.layout, "processors": os.cpu_count()}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(OUT.read_text())


if __name__ == "__main__":
    main()
