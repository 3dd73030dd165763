"""Checks whether a system may run with 8-bit linear layers (fp8 acceptance test).

``python -m live_avatar.services.denoise_stage.quantization_check --help``

Runs a long session as the preset says and one with 8-bit layers, compares them block by block, and writes a report.
A stage takes ``--linear fp8`` only with a report that says yes about the weights it loads.
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import torch

from live_avatar.config import preset
from live_avatar.files import check_output, write_text
from live_avatar.memory import largest_size
from live_avatar.model import fp8
from live_avatar.model.device import open_device
from live_avatar.model.networks import Networks, open_networks
from live_avatar.services.denoise_stage.loading import load_denoiser
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.drift import LEAST_WORST_DB, Drift, drift, reorder_reduction, synthetic_session

BLOCKS = 100
COMMAND = "python -m live_avatar.services.denoise_stage.quantization_check"


def measure(networks: Networks, blocks: int, least_worst_db: float, *, kv: bool = False) -> dict[str, object]:
    """The report: what 8-bit layers change, and with ``kv`` 8-bit keys and values too, beside what rounding changes."""
    system = networks.preset
    factor = system.vae.spatial_factor
    height, width = (side // factor for side in largest_size(system))
    exact = load_denoiser(networks, range(system.stream.steps), system.stream.steps)
    latents = list(synthetic_session(exact, system, (height, width), blocks))

    def compared(how: str) -> Drift:
        model = copy.deepcopy(exact.model)
        if how == "rounding":
            reorder_reduction(model)
        else:
            fp8.quantise(model, system.dit)
        kv_dtype = fp8.FP8 if kv and how == "fp8" else None
        other = Denoiser(model, system.stream, exact.schedule, exact.steps, exact.rng, kv_dtype=kv_dtype)
        return drift(list(synthetic_session(other, system, (height, width), blocks)), latents)

    rounding, eight = compared("rounding"), compared("fp8")
    return {
        "preset": system.name,
        "digest": networks.digest,
        "device": str(networks.device),
        "blocks": blocks,
        "kv": "fp8" if kv else "exact",
        "worst_db": round(eight.worst_db, 2),
        "median_db": round(eight.median_db, 2),
        "growth_db": round(eight.growth_db, 2),
        "rounding_worst_db": round(rounding.worst_db, 2),
        "rounding_median_db": round(rounding.median_db, 2),
        "least_worst_db": least_worst_db,
        "passed": eight.worst_db >= least_worst_db,
        "blocks_db": [round(block, 2) for block in eight.blocks_db],
    }


def check_report(report: Path | None, digest: str) -> None:
    """Refuses 8-bit layers without a report that lets these weights pass.

    Raises:
        ValueError: there is none, it is about others, or it says no.
    """
    if report is None:
        raise ValueError(f"linear fp8 needs --fp8-report, the file that {COMMAND} writes")
    try:
        content = json.loads(report.read_text())
        about, passed = content["digest"], content["passed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"fp8 report {report}: cannot be read: {error!r}") from error
    if about != digest:
        raise ValueError(f"fp8 report {report}: is about weights {about}, not {digest}")
    if passed is not True:
        raise ValueError(f"fp8 report {report}: these weights did not pass")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    add = parser.add_argument
    add("--preset", default="TINY", help="the system; default TINY")
    add("--weights", type=Path, help="folder of live-avatar weights convert; none: random weights")
    add("--device", default="cpu", help="cpu, or cuda:0 and so on; default cpu")
    add("--blocks", type=int, default=BLOCKS, help=f"blocks that are rolled out; default {BLOCKS}")
    least = f"smallest signal-to-noise ratio of the worst block, in dB; default {LEAST_WORST_DB}"
    add("--least-worst-db", type=float, default=LEAST_WORST_DB, help=least)
    add("--fp8-kv", action="store_true", help="store keys and values in 8 bits as well")
    report = Path("fp8-report.json")
    add("--out", type=Path, default=report, help=f"file of the report; default {report}")
    return parser


def main() -> int:
    """Writes the report and prints it; returns 1 where the system does not pass."""
    parser = _parser()
    given = parser.parse_args()
    try:
        check_output(given.out)
        device = open_device(given.device, torch.get_num_threads())
        networks = open_networks(preset(given.preset), given.weights, device)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    report = measure(networks, given.blocks, given.least_worst_db, kv=given.fp8_kv)
    text = json.dumps(report, indent=1)
    write_text(given.out, text + "\n")
    sys.stdout.write(text + "\n")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
