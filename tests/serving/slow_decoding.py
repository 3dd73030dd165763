"""Harmless stand-ins for a decoder: slow, greedy or broken on purpose, as their first word says."""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from live_avatar.portrait import jobs
from live_avatar.portrait.header import read_header
from live_avatar.portrait.limits import PortraitError

SLOW, GREEDY, BREAKING = 66, 67, 68
"""Widths of portraits that ``measure`` and ``draw`` treat so."""
FOREVER_S = 60
_PIECE = 16 * 2**20
_MOST = 64
"""Pieces that the greedy one takes where nothing stops it."""
Answer = tuple[Mapping[str, Any], bytes]


def act(data: bytes, **parameters: Any) -> Answer:
    """Does what ``data`` says."""
    match data.partition(b" ")[0]:
        case b"echo":
            return parameters, data
        case b"wait":
            time.sleep(float(data.partition(b" ")[2]))
        case b"spin":
            _spin()
        case b"grab":
            return {"pieces": len([bytearray(_PIECE) for _ in range(_MOST)])}, b""
        case b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"refuse":
            raise PortraitError("IMAGE_UNREADABLE", "refused on purpose")
        case b"fail":
            raise RuntimeError("failed on purpose")
        case b"look":
            return {}, json.dumps(_surroundings()).encode()
    return {}, b""


def measure(data: bytes, **parameters: Any) -> Answer:
    """As ``jobs.measure``, but for portraits of certain widths."""
    _misbehave(data)
    return jobs.measure(data, **parameters)


def draw(data: bytes, **parameters: Any) -> Answer:
    """As ``jobs.draw``, but for portraits of certain widths."""
    _misbehave(data)
    return jobs.draw(data, **parameters)


def _misbehave(data: bytes) -> None:
    act({SLOW: b"spin", GREEDY: b"grab", BREAKING: b"die"}.get(read_header(data).width, b""))


def _spin() -> None:
    end = time.monotonic() + FOREVER_S
    while time.monotonic() < end:
        pass


def _surroundings() -> dict[str, Any]:
    files = Path("/proc/self/fd")
    open_files = {name.name: os.readlink(name) for name in files.iterdir() if name.exists()} if files.exists() else {}
    return {
        "files": open_files,
        "environment": sorted(os.environ),
        "torch": "torch" in sys.modules,
        "grpc": "grpc" in sys.modules,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "nice": os.nice(0),
    }
