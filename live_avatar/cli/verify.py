"""``live-avatar verify``: does a video carry our mark, and whose is it?

Looks for the invisible mark alone; signed metadata is not read.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from live_avatar.watermark.detection import Detector

NOT_FOUND = 1
KEY_VARIABLE = "LIVE_AVATAR_WATERMARK_KEY"
MAX_KEY_BYTES = 4096
_FILES = typer.Argument(metavar="FILE...", help="Videos in any form that FFmpeg reads.")
_KEY_FILE = typer.Option(help=f"File with the key of the mark, as the decoder service has it; default: {KEY_VARIABLE}.")


@dataclass
class Finding:
    """One session's mark in a video."""

    deployment: int
    session: int
    windows: int
    """Of two seconds, that carry it."""
    first_slot: int | None
    """Of 30.72 s each, since the session began; None where none could be read."""
    last_slot: int | None
    first_s: float
    """Time in the file at which the first of the windows begins; the last one below."""
    last_s: float


@dataclass(frozen=True)
class Report:
    """What a file carries."""

    file: str
    windows: int
    """That were searched."""
    marks: list[Finding]


def verify(
    files: Annotated[list[Path], _FILES],
    key_file: Annotated[Path | None, _KEY_FILE] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of one object per file.")] = False,
) -> None:
    """Look for the invisible mark in videos. Exit code 0: in every file, 1: not in every file, 2: an error.

    Signed metadata is not read.
    """
    from live_avatar.watermark.carrier import carrier_of
    from live_avatar.watermark.detection import Detector

    detector = Detector(carrier_of(_key(key_file)))
    reports = []
    for file in files:
        reports.append(report_on(file, detector))
        if not as_json:
            typer.echo("\n".join(_lines(reports[-1])))
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports], indent=1))
    if not all(report.marks for report in reports):
        raise typer.Exit(NOT_FOUND)


def report_on(file: Path, detector: "Detector") -> Report:
    """Searches all windows of a file, each first where the mark was before.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no video, or too short.
    """
    from live_avatar.watermark.video import windows

    marks: dict[tuple[int, int], Finding] = {}
    count, likely = 0, None
    for window in windows(file):
        count += 1
        found = detector.detect(window.planes, window.seconds, likely)
        if found.payload is None:
            continue
        likely, payload, start = found.geometry, found.payload, float(window.seconds[0])
        fresh = Finding(payload.deployment, payload.session, 0, payload.slot, payload.slot, start, start)
        mark = marks.setdefault((payload.deployment, payload.session), fresh)
        mark.windows, mark.last_s = mark.windows + 1, start
        if payload.slot is not None:
            mark.first_slot = payload.slot if mark.first_slot is None else mark.first_slot
            mark.last_slot = payload.slot
    if not count:
        raise ValueError(f"{file} is too short: a second of video is needed at least")
    return Report(str(file), count, list(marks.values()))


def _key(file: Path | None) -> bytes:
    """The key as bytes, without the end of the line."""
    if file is None:
        if not (key := os.environ.get(KEY_VARIABLE, "")):
            raise ValueError(f"no key: give --key-file, or set {KEY_VARIABLE}")
        return key.encode()
    with file.open("rb") as opened:
        key_bytes = opened.read(MAX_KEY_BYTES + 1).rstrip(b"\r\n")
    if len(key_bytes) > MAX_KEY_BYTES:
        raise ValueError(f"{file} has more than {MAX_KEY_BYTES} bytes, which is no key")
    return key_bytes


def _lines(report: Report) -> Iterator[str]:
    if not report.marks:
        yield f"{report.file}: no mark found in {report.windows} windows of 2 s"
    for mark in report.marks:
        slots = "slot unreadable" if mark.first_slot is None else f"slots {mark.first_slot} to {mark.last_slot}"
        yield (
            f"{report.file}: marked by deployment {mark.deployment}, session {mark.session:06x}, {slots}, "
            f"in {mark.windows} of {report.windows} windows"
        )
