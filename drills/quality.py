"""How sessions look after they went on elsewhere: six people whom the networks have not seen."""

import json
import subprocess
import sys

from drills.place import Numbers, Place

CLIPS = 6


def quality(place: Place) -> Numbers:
    """Mouth, identity and the jump after a recovery, of six held-out people."""
    out = place.out / "recovery"
    command = [sys.executable, "-m", "evaluation", "--recovery", "--clips", str(CLIPS), "--out", str(out)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    bars = json.loads((out / "recovery.json").read_text())["bars"]
    for name, value in bars.items():
        place.report(f"{name}: {value:.3f}")
    return {f"quality_{'_'.join(name.split())}": float(value) for name, value in bars.items()}
