"""Peak host memory of loading a checkpoint: a few layers of full width, synthetic weights.

    python -m benchmarks.load [--layers 4] [--stored bfloat16|float32]

Writes the checkpoint to a temporary folder in one process and loads it in another, so that only loading is measured.
Prints JSON; the bar is a peak of at most 1.15 times the weights that are kept.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from live_avatar.config import S2V_14B, Preset
from live_avatar.model import checkpoint, components
from live_avatar.model.weight_files import open_weights

BAR = 1.15
SOME_VALUE = 0.5


def system(layers: int) -> Preset:
    """The real preset with ``layers`` layers, audio injected after the first and the last."""
    return replace(S2V_14B, dit=replace(S2V_14B.dit, num_layers=layers, audio_layers=(0, layers - 1)))


def synthetic(preset: Preset, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the denoiser, made as it is asked for."""
    for key, shape in components.component_shapes(preset, "dit").items():
        yield key, torch.full(shape, SOME_VALUE, dtype=dtype)


def write(folder: Path, layers: int, stored: str) -> None:
    """Writes the synthetic checkpoint."""
    preset = system(layers)
    tensors = synthetic(preset, getattr(torch, stored))
    checkpoint.write_weights(folder, tensors, preset=preset.name, component="dit")


def measure(folder: Path, layers: int, stored: str) -> dict[str, object]:
    """Loads the checkpoint as bfloat16 and reports memory and time of this process."""
    preset = system(layers)
    module = components.build_on_meta(preset, "dit")
    names = components.COMPONENTS["dit"].names(preset)
    before, start = peak_bytes(), time.perf_counter()
    checkpoint.load_module(module, names, open_weights(folder), dtype=torch.bfloat16)
    seconds = time.perf_counter() - start
    kept = sum(tensor.nbytes for tensor in module.state_dict().values())
    ratio = (peak_bytes() - before) / kept
    return {
        "layers": layers,
        "stored": stored,
        "kept_gb": round(kept / 1e9, 3),
        "peak_over_kept": round(ratio, 3),
        "bar": BAR,
        "passed": ratio <= BAR,
        "seconds_with_digests": round(seconds, 1),
        "machine": f"{platform.machine()}, {platform.system()}, torch {torch.__version__}",
    }


def peak_bytes() -> int:
    """Largest resident memory of this process so far, mapped files included."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Runs both halves, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--stored", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--half", choices=("write", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.half == "write":
        write(arguments.folder, arguments.layers, arguments.stored)
    elif arguments.half == "measure":
        print(json.dumps(measure(arguments.folder, arguments.layers, arguments.stored), indent=1))
    else:
        with tempfile.TemporaryDirectory(prefix="live-avatar-") as folder:
            for half in ("write", "measure"):
                again = [sys.executable, "-m", "benchmarks.load", "--half", half, "--folder", folder]
                subprocess.run([*again, "--layers", str(arguments.layers), "--stored", arguments.stored], check=True)


if __name__ == "__main__":
    main()
