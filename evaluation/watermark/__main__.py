"""How well the invisible mark survives: ``python -m evaluation.watermark``, ``make mark``.

Marks clips, encodes them as the decoder service does, attacks them, and searches windows of two seconds.  Writes
``watermark.json`` and the contact sheet ``watermark.png``.  ``docs/performance/watermark.md`` says what the numbers
mean.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.__main__ import machine
from evaluation.watermark.attacks import Video
from evaluation.watermark.clips import SIZES, Source, sources
from evaluation.watermark.false_positives import Null
from evaluation.watermark.sheet import Row, save_sheet
from evaluation.watermark.survival import Outcome, grey, marked, outcomes, psnr_db, summary, window
from live_avatar.files import write_text
from live_avatar.watermark.carrier import carrier_of
from live_avatar.watermark.detection import Detector
from live_avatar.watermark.payload import Payload

ROWS_ON_SHEET = 3
"""Per size."""


def main() -> None:
    """Measures, prints and writes."""
    given = _parser().parse_args()
    console, null, rows = Console(), Null(), []
    numbers: dict[str, object] = {"machine": machine(), "sizes": (sizes := {})}
    photographs = sorted(given.photographs.glob("*.jpg")) if given.photographs else []
    for width, height in SIZES:
        results: list[Outcome] = []
        psnr = []
        for number, source in enumerate(sources(given.clips, width, height, photographs, given.seed)):
            console.print(f"{width}x{height}, clip {number + 1} of {given.clips}: {source.kind}")
            row = _measure(source, given.seed + number, null, given.keys, results)
            psnr.append(psnr_db(row.before, row.after))
            rows += [row] if number < ROWS_ON_SHEET else []
        kinds = sorted({one.kind for one in results})
        sizes[f"{width}x{height}"] = {
            "psnr_db_least": min(psnr),
            "psnr_db_median": float(np.median(psnr)),
            "all": summary(results),
            **{kind: summary([one for one in results if one.kind == kind]) for kind in kinds},
        }
        numbers["false_positives"] = null.summary()
        write_text(given.out / "watermark.json", json.dumps(numbers, indent=1) + "\n")
    save_sheet(rows, given.out / "watermark.png")
    console.print_json(json.dumps(numbers))


def _measure(source: Source, seed: int, null: Null, keys: int, results: list[Outcome]) -> Row:
    """One clip with a key and a payload of its own, marked and unmarked."""
    rng = np.random.default_rng(seed)
    key = rng.bytes(32)
    payload = Payload(int(rng.integers(1 << 24)), int(rng.integers(1 << 24)), 0)
    after = marked(source, key, payload)
    results += outcomes(source, window(source, after, rng), Detector(carrier_of(key)), payload)
    planes, seconds = grey(Video(window(source, source.frames, rng)))
    null.search(planes, seconds, keys)
    null.search_fully(planes, seconds)
    return Row(source.kind, source.frames, after)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation.watermark", description=__doc__)
    add = parser.add_argument
    add("--clips", type=int, default=20, help="per size of the frames")
    add("--photographs", type=Path, help="folder of .jpg files for moving crops; without it there are none")
    add("--keys", type=int, default=100, help="wrong keys that each unmarked window is searched with")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("out"), help="folder of the results")
    return parser


if __name__ == "__main__":
    main()
