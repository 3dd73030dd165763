"""A process that decodes what strangers sent, one piece after another, under limits of its own.

``python -m live_avatar.serving.decode_worker PARENT ENTRIES MEMORY_BYTES CPU_SECONDS`` reads jobs from stdin and
answers on stdout, each as a frame: lengths of a JSON header and of a body, then both.  ``ENTRIES`` name the functions
that do the work as ``module:function,...``; one is called with the body and the header's parameters, and returns facts
and bytes.
Never imports torch; dies with its parent.
"""

import ctypes
import importlib
import json
import math
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

FRAME = struct.Struct(">IQ")
"""Bytes of the header, bytes of the body."""
TOO_LARGE = "memory"
"""Said of a job that needed more than the process may have."""

Entry = Callable[..., tuple[Mapping[str, Any], bytes]]

_PR_SET_PDEATHSIG = 1
_NICENESS = 5
"""Who talks already goes before who only begins."""


def main(parent: int, entries: str, memory_bytes: int, cpu_seconds: int) -> int:
    """Works until stdin ends; returns the exit code."""
    if not _die_with(parent):
        return 1
    functions = {name: _find(name) for name in entries.split(",")}
    _limit(memory_bytes)
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    _write(stdout, {}, b"")  # warm
    while (job := _read(stdin)) is not None:
        _limit_time(cpu_seconds)
        _write(stdout, *_answer(functions, *job))
    return 0


def _answer(functions: Mapping[str, Entry], header: Mapping[str, Any], body: bytes) -> tuple[Mapping[str, Any], bytes]:
    try:
        facts, result = functions[header["entry"]](body, **header["parameters"])
    except MemoryError:
        return {"refused": TOO_LARGE}, b""
    except Exception as error:  # noqa: BLE001 - the one who asked raises it again
        reason = getattr(error, "reason", None)
        if reason is not None:
            return {"refused": reason, "message": str(error)}, b""
        return {"broke": traceback.format_exc()}, b""
    return {"facts": facts}, result


def _die_with(parent: int) -> bool:
    """Asks the kernel to end this process with its parent; only Linux can.  False where that has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # where the machine has too little, this goes first
    return os.getppid() == parent


def _limit(memory_bytes: int) -> None:
    """Lets this process have ``memory_bytes`` more than it has now."""
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time(cpu_seconds: int) -> None:
    """Lets this process compute for that much longer; then SIGXCPU ends it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + cpu_seconds, hard))


def _find(name: str) -> Entry:
    module, _, function = name.partition(":")
    found: Entry = getattr(importlib.import_module(module), function)
    return found


def _read(stream: BinaryIO) -> tuple[Mapping[str, Any], bytes] | None:
    lengths = stream.read(FRAME.size)
    if len(lengths) < FRAME.size:
        return None
    header_bytes, body_bytes = FRAME.unpack(lengths)
    header = json.loads(stream.read(header_bytes))
    return header, stream.read(body_bytes)


def _write(stream: BinaryIO, header: Mapping[str, Any], body: bytes) -> None:
    written = json.dumps(header).encode()
    stream.write(FRAME.pack(len(written), len(body)) + written)
    stream.write(body)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
