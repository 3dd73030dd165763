"""Writes a software bill of materials (CycloneDX, JSON) for each image from the locks it is built from: out/sbom/.

    python tools/sbom.py

It lists the Python packages that an image holds, with their hashes.  What the base image brings is not in it: scan the
built image for that.  The generator is cyclonedx-bom, which uv fetches into an environment of its own.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
OUT = ROOT / "out" / "sbom"
GENERATOR = "cyclonedx-bom==7.5.0"
_COMPUTING = ("audio-encoder", "denoise-stage", "vae-decoder")
TORCHES = ("cpu", "cuda")


def images() -> Mapping[str, Sequence[str]]:
    """Names of the locks behind each image; those with torch are there once for each of its builds."""
    found: dict[str, Sequence[str]] = {"live-avatar-gateway": ("gateway",)}
    for torch in TORCHES:
        for service in _COMPUTING:
            found[f"live-avatar-{service}-{torch}"] = ("pipeline", f"torch-{torch}")
        found[f"live-avatar-trainer-{torch}"] = ("pipeline", f"torch-{torch}", "trainer")
    return found


def main() -> int:
    """Writes all files; returns the exit code."""
    OUT.mkdir(parents=True, exist_ok=True)
    made: dict[Sequence[str], dict[str, Any]] = {}
    for image, locks in images().items():
        if locks not in made:
            made[locks] = generate(locks)
        bill = made[locks]
        bill["metadata"]["component"]["name"] = image
        path = OUT / f"{image}.json"
        path.write_text(json.dumps(bill, indent=2) + "\n")
        sys.stdout.write(f"{path.relative_to(ROOT)}  {len(bill['components'])} packages\n")
    return 0


def generate(locks: Sequence[str]) -> dict[str, Any]:
    """The bill of the packages in ``locks``."""
    with tempfile.TemporaryDirectory() as folder:
        requirements, out = Path(folder) / "requirements.txt", Path(folder) / "bill.json"
        requirements.write_text("".join((LOCKS / f"{lock}.txt").read_text() for lock in locks))
        command = [
            sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", GENERATOR, "cyclonedx-py", "requirements",
            str(requirements), "--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible",
            "--output-format", "JSON", "--output-file", str(out),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"sbom: {GENERATOR} does not run: {done.stderr.strip().splitlines()[-1]}")
        bill: dict[str, Any] = json.loads(out.read_text())
        return bill


if __name__ == "__main__":
    sys.exit(main())
