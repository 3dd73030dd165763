"""What this machine is: GPUs, torch build, processor, settings.  Facts only; judging them is doctor's.

Works without a GPU and without torch; whatever cannot be found out is None or empty.
"""

import csv
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NVIDIA_TIMEOUT_S = 10
_NVIDIA_FIELDS = (
    "name",
    "driver_version",
    "compute_cap",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "clocks_throttle_reasons.hw_slowdown",
    "clocks_throttle_reasons.sw_thermal_slowdown",
)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU as its driver describes it."""

    name: str
    driver: str
    capability: tuple[int, int]
    memory_mib: int
    used_mib: int
    busy_percent: int
    throttled: bool


@dataclass(frozen=True, kw_only=True)
class TorchBuild:
    """The installed torch and how it is set."""

    version: str
    cuda: str | None
    """CUDA version it was built for; None: a CPU build."""
    gpus_seen: int
    attention: dict[str, bool]
    """Back-ends of scaled dot product attention on the GPU, on or off."""
    cpu_capability: str
    """Instruction set its CPU kernels use."""
    threads: int
    triton: bool


@dataclass(frozen=True, kw_only=True)
class Machine:
    """All facts, gathered once."""

    gpus: tuple[Gpu, ...]
    gpu_error: str | None
    """Why the driver lists no GPU."""
    torch: TorchBuild | None
    cpu: str
    cpu_flags: frozenset[str]
    cores: float
    """Cores this process may use, a container's quota included."""
    compiler: str | None
    environment: Mapping[str, str]


def look() -> Machine:
    """Gathers the facts of this machine."""
    gpus, error = _ask_driver()
    cpu, flags = _read_cpu(Path("/proc/cpuinfo"))
    return Machine(
        gpus=gpus,
        gpu_error=error,
        torch=_torch_build(),
        cpu=cpu or platform.processor() or platform.machine(),
        cpu_flags=flags,
        cores=min(usable_cores(), cpu_quota(Path("/sys/fs/cgroup/cpu.max"))),
        compiler=next(filter(None, map(shutil.which, ("g++", "clang++"))), None),
        environment=dict(os.environ),
    )


def _ask_driver() -> tuple[tuple[Gpu, ...], str | None]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), "no NVIDIA driver is installed (nvidia-smi is not on the path)"
    command = [program, f"--query-gpu={','.join(_NVIDIA_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_TIMEOUT_S, check=False)
    except (subprocess.TimeoutExpired, OSError) as error:
        return (), f"nvidia-smi does not answer: {error}"
    if answer.returncode:
        return (), " ".join((answer.stdout + answer.stderr).split()) or f"nvidia-smi failed with {answer.returncode}"
    return parse_gpus(answer.stdout), None


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs from the driver's CSV, one line each; a number it does not know (``[N/A]``) counts as 0."""
    gpus = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        name, driver, capability, total, used, busy, *slowdowns = row
        major, _, minor = capability.partition(".")
        gpus.append(
            Gpu(
                name=name,
                driver=driver,
                capability=(_number(major), _number(minor)),
                memory_mib=_number(total),
                used_mib=_number(used),
                busy_percent=_number(busy),
                throttled="Active" in slowdowns,
            )
        )
    return tuple(gpus)


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0


def _torch_build() -> TorchBuild | None:
    try:
        import torch
    except ModuleNotFoundError:
        return None
    switches = torch.backends.cuda
    return TorchBuild(
        version=torch.__version__,
        cuda=torch.version.cuda,
        gpus_seen=torch.cuda.device_count() if torch.version.cuda else 0,
        attention={
            "cudnn": switches.cudnn_sdp_enabled(),
            "flash": switches.flash_sdp_enabled(),
            "memory efficient": switches.mem_efficient_sdp_enabled(),
        },
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        triton=_installed("triton"),
    )


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _read_cpu(path: Path) -> tuple[str, frozenset[str]]:
    """Model name and instruction flags of the first processor, where the system lists them."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return "", frozenset()
    pairs = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return pairs.get("model name", ""), frozenset(pairs.get("flags", pairs.get("Features", "")).split())


def usable_cores() -> int:
    """Cores this process may be scheduled on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(path: Path) -> float:
    """Cores that a container's limit in ``path`` (cgroup v2) grants; infinite without one."""
    try:
        quota, period = path.read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        return float("inf")
