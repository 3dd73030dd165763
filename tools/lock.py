"""Writes the versions that images are built from, each with the hashes of its files: ``locks/``.

    python tools/lock.py

What is installed here, and thereby tested, is what is locked.  One file per kind of image, and one per build of torch,
which is the only package with more than one.
"""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
TORCH = "torch"
_OF_CUDA = re.compile(r"(nvidia-|cuda-|triton)")
"""Packages that the CUDA build of torch brings with it."""
_OF_ASYNC_KUBERNETES = (
    "aiohttp",
    "aiohttp-retry",
    "aiohappyeyeballs",
    "aiosignal",
    "frozenlist",
    "multidict",
    "propcache",
    "yarl",
)
"""What the Kubernetes client wants for its second half alone, which the gateway's image leaves out."""
_HEADING = "# Written by tools/lock.py.\n"


def main() -> None:
    """Writes all files."""
    LOCKS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text("".join(_installed()))
        gateway, pipeline, train = (_resolve(extra, constraints) for extra in ("gateway", "pipeline", "train"))
    cuda = {name: entry for name, entry in pipeline.items() if name == TORCH or _OF_CUDA.match(name)}
    _write("gateway", {name: entry for name, entry in gateway.items() if name not in _OF_ASYNC_KUBERNETES})
    _write("pipeline", {name: entry for name, entry in pipeline.items() if name not in cuda})
    _write("trainer", {name: entry for name, entry in train.items() if name not in {**pipeline, **gateway}})
    _write("build", {"setuptools": pipeline["setuptools"]})
    _write("torch-cuda", cuda)
    _write("torch-cpu", {TORCH: _torch_of_this_machine()})


def _installed() -> Iterable[str]:
    """Every package of this environment with its version; those that live in a folder of ours left out."""
    for package in importlib.metadata.distributions():
        name, version = package.metadata["Name"], package.version
        if name != "live-avatar" and "+" not in version:
            yield f"{name}=={version}\n"


def _resolve(extra: str, constraints: Path) -> Mapping[str, str]:
    """Entries of a requirements file, by package: all that ``extra`` needs on Linux."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", extra, "--generate-hashes",
        "--no-annotate", "--no-header", "--quiet", "--python-version", "3.11", "--python-platform", "linux",
        "--constraint", str(constraints),
    ]  # fmt: skip
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    entries = re.split(r"\n(?=[a-zA-Z])", text.strip())
    return {entry.partition("==")[0]: entry for entry in entries}


def _torch_of_this_machine() -> str:
    """The entry of the build of torch that pip finds here, which has the version of the installed one."""
    version = importlib.metadata.version(TORCH)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*command, f"{TORCH}=={version}"], check=True)
        (wheel,) = Path(folder).iterdir()
        return f"{TORCH}=={version} \\\n    --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}"


def _write(name: str, entries: Mapping[str, str]) -> None:
    (LOCKS / f"{name}.txt").write_text(_HEADING + "\n".join(entries.values()) + "\n")


if __name__ == "__main__":
    main()
