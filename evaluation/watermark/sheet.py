"""Draws the contact sheet of the mark: a frame before, the same frame after, and 20 times the difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.frame_metrics import Frames

HEIGHT = 256
_FRAME, _GAIN, _GREY = 30, 20, 128


@dataclass(frozen=True)
class Row:
    """One clip."""

    kind: str
    before: Frames
    after: Frames


def save_sheet(rows: Sequence[Row], file: Path) -> None:
    """Writes the sheet, one row below the other."""
    strips = [_strip(row) for row in rows]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, HEIGHT * len(strips)), "white")
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, HEIGHT * number))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, optimize=True)


def _strip(row: Row) -> Image.Image:
    before, after = row.before[_FRAME], row.after[_FRAME]
    difference = (_GREY + _GAIN * (after.astype(np.int16) - before)).clip(0, 255).astype(np.uint8)
    whole = Image.fromarray(np.concatenate([before, after, difference], axis=1))
    return whole.resize((whole.width * HEIGHT // whole.height, HEIGHT), Image.Resampling.LANCZOS)
