"""Looks up the packages of all locks in the vulnerability database of PyPI, with pip-audit.

    python tools/audit_dependencies.py

Exit code 0: no known vulnerability; 1: some, which are listed; 2: not all packages could be looked up, as without a
network or behind a mirror that has packages alone.  A package that was not looked up is never counted as clean.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
AUDITOR = "pip-audit==2.10.1"
_LOCAL_VERSION = re.compile(r"^([\w.-]+==[\w.]+)\+\w+", re.MULTILINE)
"""Builds of one release, as ``2.13.0+cpu``, which the database does not know apart."""
_LOOKED_UP, _VULNERABLE, _INCOMPLETE = 0, 1, 2


@dataclass(frozen=True)
class Result:
    """What is known of the packages of one lock."""

    lock: str
    packages: int
    skipped: int
    found: Sequence[str]
    """One line for each vulnerability."""

    def __str__(self) -> str:
        state = f"{self.packages} packages, {len(self.found)} known vulnerabilities"
        return f"{self.lock}: {state}" + (f", {self.skipped} packages not looked up" if self.skipped else "")


def main() -> int:
    """Prints a line for each lock and each vulnerability; returns the exit code."""
    results = [audit(path) for path in sorted(LOCKS.glob("*.txt"))]
    for result in results:
        sys.stdout.write("".join(f"{line}\n" for line in (str(result), *result.found)))
    if any(result.found for result in results):
        return _VULNERABLE
    return _INCOMPLETE if any(result.skipped for result in results) else _LOOKED_UP


def audit(lock: Path) -> Result:
    """Looks up all packages of one lock."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / lock.name
        requirements.write_text(_LOCAL_VERSION.sub(r"\1", lock.read_text()))
        command = [
            sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", AUDITOR, "pip-audit", "--disable-pip",
            "--require-hashes", "--progress-spinner", "off", "--format", "json", "--requirement", str(requirements),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return read(lock.stem, done.stdout, lock.read_text().count("=="), done.stderr)


def read(lock: str, report: str, packages: int, errors: str = "") -> Result:
    """The result in pip-audit's ``report``; without one no package was looked up.

    Args:
        lock: its name.
        report: JSON of pip-audit; empty where it failed.
        packages: how many the lock has.
        errors: what pip-audit wrote to stderr.
    """
    try:
        dependencies = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        sys.stderr.write(f"{lock}: {(errors.strip().splitlines() or ['pip-audit failed'])[-1]}\n")
        return Result(lock, packages, packages, ())
    audited = [entry for entry in dependencies if "vulns" in entry]
    found = [
        f"  {entry['name']} {entry['version']}: {', '.join((one['id'], *one.get('aliases', ())))}; "
        f"fixed in {', '.join(one.get('fix_versions', ())) or 'no release'}"
        for entry in audited
        for one in entry["vulns"]
    ]
    return Result(lock, packages, packages - len(audited), found)


if __name__ == "__main__":
    sys.exit(main())
