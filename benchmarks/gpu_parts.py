"""The parts that ``benchmarks.gpu`` measures with, on a GPU or, for a trial, on the CPU: clocks, counters, networks.

Weights are drawn on the device: 14 billion numbers need neither a download nor the host's memory.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from live_avatar.config import Preset
from live_avatar.model import components
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.kv_cache import KVWindow

Run = Callable[[], object]
TERA = 1e12
KERNELS = {"attention": ("sdpa", "flash", "fmha"), "products": ("nvjet", "gemm", "cutlass")}
"""Parts of the names of the libraries' kernels; attention first, since its names hold those of products too."""
REST = "rest"
_SPREAD = 0.02
_GAIN_NAMES = ("norm", "gamma")


def draw_network(preset: Preset, component: str, device: torch.device) -> nn.Module:
    """A network of random weights, drawn on the device; gains are 1."""
    module = components.build_on_meta(preset, component)
    module.to(components.DTYPES[components.COMPONENTS[component].dtype(preset)])  # before there is memory of twice that
    module.to_empty(device=device)
    for name, parameter in module.named_parameters():
        if any(part in name for part in _GAIN_NAMES) and name.endswith(("weight", "gamma")):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0, _SPREAD)
    for name, buffer in module.named_buffers():
        buffer.fill_(1.0 if name == "std" else 0.0)
    return module


def new_window(preset: Preset, size: Geometry, dtype: torch.dtype, device: torch.device, batch: int = 1) -> KVWindow:
    """An empty window of the preset's length, for ``batch`` sessions side by side."""
    stream = preset.stream
    return KVWindow(
        size,
        latents_per_block=stream.latents_per_block,
        window_blocks=stream.window_blocks,
        batch=batch,
        dtype=dtype,
        device=device,
    )


def median_ms(run: Run, device: torch.device, runs: int) -> float:
    """Median time of a call by the device's own clock, after two calls that do not count."""
    times = times_ms(run, device, runs + 2)
    return statistics.median(times[2:])


def times_ms(run: Run, device: torch.device, runs: int) -> list[float]:
    """Times of ``runs`` calls, each awaited."""
    if device.type != "cuda":
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - began))
        return times
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for before, after in events:
        before.record()
        run()
        after.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in events]


def wall_ms(run: Run, device: torch.device, runs: int) -> float:
    """Time per call by the clock on the wall, all calls queued one behind the other."""
    wait_for_device(device)
    began = time.perf_counter()
    for _ in range(runs):
        run()
    wait_for_device(device)
    return 1000 * (time.perf_counter() - began) / runs


def kernels_ms(run: Run, device: torch.device) -> dict[str, float]:
    """Times of all kernels of one call, summed by what they do: ``KERNELS`` and the rest; empty without a GPU."""
    if device.type != "cuda":
        return {}
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        wait_for_device(device)
    sums = dict.fromkeys((*KERNELS, REST), 0.0)
    for event in profile.events():
        if event.device_type.name == "CUDA":
            sums[does(event.name)] += event.device_time_total / 1000
    return sums


def does(kernel: str) -> str:
    """What a kernel of this name does: ``products``, ``attention`` or the rest."""
    return next((what for what, parts in KERNELS.items() if any(part in kernel for part in parts)), REST)


def wait_for_device(device: torch.device) -> None:
    """Waits until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Steady:
    """What must not happen once everything is warm, counted over some calls."""

    device_allocations: int = 0
    """Requests to the driver for memory."""
    recompiles: int = 0
    syncs: int = 0
    """Times the host waited for the device."""


@contextmanager
def watched(device: torch.device) -> Iterator[Steady]:
    """Counts while it lasts; the numbers are there at its end."""
    found, before = Steady(), _counts(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    after = _counts(device)
    found.device_allocations, found.recompiles = after[0] - before[0], after[1] - before[1]
    found.syncs = sum("synchronizing" in str(warning.message) for warning in caught)


def _counts(device: torch.device) -> tuple[int, int]:
    segments = torch.cuda.memory_stats(device)["segment.all.allocated"] if device.type == "cuda" else 0
    return int(segments), int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def free(*things: object) -> None:
    """Lets the device have back what nobody holds any more."""
    del things
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def random_like(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, device=device, dtype=torch.float32).to(dtype)
