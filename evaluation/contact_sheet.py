"""Draws strips of frames of single videos, and the contact sheet made of them.

Letters: T frames, H and W pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.dataset import Segment

PICTURES, EVERY, FROM = 12, 4, 30
"""Of a strip: how many, how many frames apart, and the first one."""
PICTURE_SIDE = 96
"""Pixels of a picture on the sheet."""
_MARGIN, _LABEL, _TITLE = 12, 250, 34
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


@dataclass(frozen=True)
class Part:
    """Strips under one title."""

    title: str
    strips: tuple[tuple[str, Path], ...]
    """What each shows, and its file."""


def save_strip(segment: Segment, file: Path) -> None:
    """Writes some pictures of ``segment`` side by side."""
    last = len(segment.frames) - 1
    chosen = [min(last, max(0, FROM - segment.hidden) + EVERY * index) for index in range(PICTURES)]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(segment.frames[chosen], axis=1)).save(file)


def strip_file(folder: Path, row: str, number: int, start_s: int) -> Path:
    """Where the strip of a row's clip is kept."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in row)
    return folder / f"{plain}-{number}-{start_s}.png"


def save_sheet(parts: Iterable[Part], file: Path) -> None:
    """Writes the contact sheet; strips that are not there are left out, and so is what has none."""
    there = [Part(part.title, tuple(strip for strip in part.strips if strip[1].exists())) for part in parts]
    there = [part for part in there if part.strips]
    if not there:
        return
    height = sum(_TITLE + len(part.strips) * (PICTURE_SIDE + 2) for part in there) + 2 * _MARGIN
    sheet = Image.new("RGB", (2 * _MARGIN + _LABEL + PICTURES * PICTURE_SIDE, height), _PAPER)
    top = _MARGIN
    for part in there:
        top = _draw(sheet, part, top)
    file.parent.mkdir(parents=True, exist_ok=True)
    # A palette is enough for the eye, and a third of the size.
    sheet.quantize(256).save(file, optimize=True)


def _draw(sheet: Image.Image, part: Part, top: int) -> int:
    """Draws ``part`` from ``top`` on; where the next one begins."""
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, top + 4), part.title, _INK, _font(21))
    top += _TITLE
    for label, file in part.strips:
        with Image.open(file) as strip:
            large = strip.resize((PICTURES * PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC)
        sheet.paste(large, (_MARGIN + _LABEL, top))
        pen.text((_MARGIN, top + PICTURE_SIDE // 2 - 9), label, _INK, _font(17))
        top += PICTURE_SIDE + 2
    return top


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def people_part(folder: Path, truth: str, made: str, numbers: Sequence[int]) -> Part:
    """Every person twice: as it is, and below as it was made."""
    strips = []
    for number in numbers:
        strips.append((f"person {number + 1}, true", strip_file(folder, truth, number, 0)))
        strips.append((made, strip_file(folder, made, number, 0)))
    return Part(
        "People never met: what the synthetic person does, and below what is made of its portrait and voice",
        tuple(strips),
    )
