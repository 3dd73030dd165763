"""The device a process computes on: what it is called, and how much it may hold.

Knows nothing of networks or sessions.
"""

import os
import socket
from pathlib import Path

import torch

_CGROUP = "sys/fs/cgroup"
_KIB = 1024


def open_device(name: str, threads: int) -> torch.device:
    """The device called ``name`` (``cpu``, ``cuda`` or ``cuda:N``), with ``threads`` CPU threads for each operation.

    Raises:
        ValueError: this machine has no such device.
    """
    torch.set_num_threads(threads)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def keep_compiled_code(folder: Path | None) -> None:
    """Lets the compiler keep its code in ``folder``, where the next process finds it; None: where it would."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.resolve())


def device_identity(device: torch.device) -> str:
    """The UUID of an accelerator; for the CPU, host and process.

    The containers of a pod have one host name, and each its own first process: their namespaces distinguish them.
    """
    if device.type == "cuda":
        return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return f"{device.type}:{socket.gethostname()}:{_process_namespace()}:{os.getpid()}"


def _process_namespace() -> int:
    """Number of the namespace in which this process has its number; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def free_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Memory on ``device`` that may still be taken, in bytes; on a CPU within the limit of the container.

    What the system keeps of files counts as free: it is given up when memory runs short.  ``root`` is where the
    kernel shows itself.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _entry(root / "proc/meminfo", "MemAvailable:") * _KIB
    limit = _text(root / _CGROUP / "memory.max").strip()
    if not limit.isdecimal():
        return free
    used = int(_text(root / _CGROUP / "memory.current")) - _entry(root / _CGROUP / "memory.stat", "inactive_file")
    return max(0, min(free, int(limit) - used))


def _entry(path: Path, name: str) -> int:
    """The number behind ``name`` in a file of names and numbers."""
    for line in _text(path).splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    raise ValueError(f"{path} says nothing of {name}")


def _text(path: Path) -> str:
    """What a file of the kernel says; nothing where it is not there."""
    try:
        return path.read_text()
    except OSError:
        return ""
