"""How close one GPU comes to its own limits: ``python -m benchmarks.gpu``; ``--dry-run`` says what it would do.

First the ceilings of the device at the true shapes, then the step in bfloat16 and in 8 bits, the decoder, and what a
service adds; weights are random and drawn on the device.  Writes ``gpu.json`` and ``gpu.md`` after every section and
goes on where it was stopped; ``--again`` measures anew.  ``--preset TINY --device cpu`` tries it all on a CPU, where
the numbers mean nothing.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import gpu_sections
from benchmarks.flops import geometry, step_work
from benchmarks.gpu_parts import TERA, free
from benchmarks.gpu_sections import Numbers, Place, Size, label
from benchmarks.gpu_service import service
from benchmarks.gpu_variants import variants
from live_avatar.config import preset
from live_avatar.files import write_text
from live_avatar.memory import largest_size, session_memory, stage_weight_bytes
from live_avatar.model import components, fp8
from live_avatar.model.device import open_device

SECTIONS: Mapping[str, Callable[[Place, Mapping[str, float]], Numbers]] = {
    "ceilings": gpu_sections.ceilings,
    "step_bf16": gpu_sections.step_bf16,
    "step_fp8": gpu_sections.step_fp8,
    "decoder": gpu_sections.decoder,
    "service": service,
    "variants": variants,
}
TIME_LIMIT_S = 480.0
LARGE_SIZES = ((704, 384), (832, 480))
THRESHOLDS: Mapping[str, tuple[float | None, float | None]] = {
    "step_bf16_ms_704x384": (None, 190.0),
    "step_bf16_of_ceiling_704x384": (0.85, None),
    "step_fp8_ms_704x384": (None, 135.0),
    "decode_fast_ms_704x384": (None, 120.0),
    "first_frame_share_704x384": (None, 0.36),
    "computed_one_gpu_fps_bf16": (13.0, None),
    "launch_efficiency_bf16_704x384": (0.98, None),
    "service_overhead_share": (None, 0.01),
    "steady_allocations_bf16_704x384": (None, 0.0),
    "steady_recompiles_bf16_704x384": (None, 0.0),
    "bf16_over_fp8": (1.4, None),
    "one_latent_over_block_704x384": (None, 0.40),
    "two_sessions_over_twice_one_704x384": (None, 1.01),
    "batch_of_two_over_twice_one_704x384": (None, 1.0),
    "sp4_share_times_4_704x384": (None, 1.10),
}
"""Least and most that is wanted on an H200; elsewhere they are shown all the same."""
_TRIAL_RUNS, _RUNS = 3, 15


def main() -> None:
    """Measures what is missing in the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="How close a GPU comes to its limits."
    )
    parser.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--preset", default="S2V_14B")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", action="append", type=_size, help="WIDTHxHEIGHT to measure with; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of the results")
    parser.add_argument("--again", action="store_true", help="measure anew what the result holds already")
    parser.add_argument("--dry-run", action="store_true", help="say what would be measured, and measure nothing")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    if given.dry_run:
        print(plan(given.preset))
        return
    place = open_place(given.preset, given.device, given.size)
    given.out.mkdir(parents=True, exist_ok=True)
    measure(place, given.sections or list(SECTIONS), given.out, again=given.again)


def open_place(name: str, device: str, sizes: Sequence[Size] | None = None) -> Place:
    """The preset on the device; raises ValueError where either is not there."""
    system, runs = preset(name), _TRIAL_RUNS if device == "cpu" else _RUNS
    return Place(system, tuple(sizes or sizes_of(name)), open_device(device, torch.get_num_threads()), runs)


def _size(text: str) -> Size:
    width, height = (int(side) for side in text.split("x"))
    return width, height


def sizes_of(name: str) -> tuple[tuple[int, int], ...]:
    """Pictures to measure with: those that others publish numbers of, or the preset's largest."""
    system = preset(name)
    height, width = largest_size(system)
    return LARGE_SIZES if system.max_area >= LARGE_SIZES[0][0] * LARGE_SIZES[0][1] else ((width, height),)


def measure(place: Place, sections: list[str], out: Path, *, again: bool = False) -> dict[str, dict[str, float]]:
    """Runs the sections that ``out`` does not hold yet; stops before a new one when the time is over."""
    file, began = out / "gpu.json", time.monotonic()
    stored = json.loads(file.read_text()) if file.exists() else {}
    where = machine(place)
    found: dict[str, dict[str, float]] = stored.get("sections", {}) if stored.get("machine") == where else {}
    for name in sections:
        if name in found and not again:
            continue
        if time.monotonic() - began > TIME_LIMIT_S:
            print(f"{TIME_LIMIT_S:.0f} s are over; run it once more for {name} and what follows")
            break
        started = time.monotonic()
        found[name] = SECTIONS[name](place, flat(found))
        found[name][f"seconds_{name}"] = time.monotonic() - started
        free()
        found["computed"] = gpu_sections.computed(place, flat(found))
        write_text(file, json.dumps({"machine": where, "sections": found}, indent=1) + "\n")
        write_text(out / "gpu.md", report(where, found))
        print(f"{name}: {found[name][f'seconds_{name}']:.0f} s")
    print(report(where, found))
    return found


def flat(sections: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """All numbers of all sections."""
    return {key: value for numbers in sections.values() for key, value in numbers.items()}


def report(where: str, sections: Mapping[str, Mapping[str, float]]) -> str:
    """The result as Markdown."""
    lines = [f"# {where}", ""]
    for name, numbers in sections.items():
        lines += [f"## {name}", ""]
        if name == "computed":
            lines += ["Computed from the parts above; `projected_` numbers are of machines that nobody measured.", ""]
        lines += ["| key | value | wanted | |", "|---|---|---|---|"]
        lines += [
            f"| `{key}` | {value:.4g} | {_wanted(key)} | {_verdict(key, value)} |" for key, value in numbers.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _wanted(key: str) -> str:
    least, most = THRESHOLDS.get(key, (None, None))
    return f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else ""


def _verdict(key: str, value: float) -> str:
    least, most = THRESHOLDS.get(key, (None, None))
    if least is None and most is None:
        return ""
    return "yes" if (least is None or value >= least) and (most is None or value <= most) else "**no**"


def plan(name: str) -> str:
    """What would be measured, in numbers that follow from the preset alone."""
    system = preset(name)
    lines = [f"{name}: sections {', '.join(SECTIONS)}, at most {TIME_LIMIT_S:.0f} s before the last begins"]
    whole = stage_weight_bytes(system.dit, "bf16")
    layers = fp8.linear_layers(components.build_on_meta(system, "dit"), system.dit)
    saved = sum(linear.weight.numel() for _, _, linear in layers)
    lines.append(f"weights of the denoiser: {whole / 1e9:.1f} GB, with 8-bit layers {(whole - saved) / 1e9:.1f} GB")
    for width, height in sizes_of(name):
        work = step_work(system, geometry(system, width, height))
        kv = session_memory(system, height, width).total
        lines.append(
            f"{label((width, height))}: {work.queries} tokens attend to {work.keys}; a step is "
            f"{work.product_flops / TERA:.2f} TFLOP of products and {work.attention_flops / TERA:.2f} of attention; "
            f"K/V of a session {kv / 1e9:.2f} GB"
        )
        lines += [
            f"  {one.count} products [{one.rows}, {one.inner}] x [{one.inner}, {one.columns}]" for one in work.products
        ]
    return "\n".join(lines)


def machine(place: Place) -> str:
    """Where this runs, in one line."""
    if place.device.type == "cuda":
        hardware = torch.cuda.get_device_name(place.device)
    else:
        hardware = f"{platform.machine()} CPU: a trial whose numbers mean nothing"
    return f"{hardware}, {place.preset.name}, torch {torch.__version__}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
