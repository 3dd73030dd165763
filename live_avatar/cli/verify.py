"""``live-avatar verify``: who made a video, by its signed metadata and by the mark in its frames."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from live_avatar.provenance.reading import Metadata
    from live_avatar.watermark.detection import Detector

NOT_FOUND = 1
CHANGED = 3
KEY_VARIABLE = "LIVE_AVATAR_WATERMARK_KEY"
MAX_KEY_BYTES = 4096
MAX_TRUST_BYTES = 1 << 20
_FILES = typer.Argument(metavar="FILE...", help="Videos in any form that FFmpeg reads.")
_KEY_FILE = typer.Option(help=f"File with the key of the mark, as the decoder service has it; default: {KEY_VARIABLE}.")
_TRUST = typer.Option(help="Authorities of signers that are trusted, as PEM; default: none.")


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
class Marks:
    """What the frames of a video carry."""

    windows: int
    """That were searched."""
    found: list[Finding]


@dataclass(frozen=True)
class Report:
    """What a file carries."""

    file: str
    carries: str
    """``metadata and mark``, ``metadata``, ``mark`` or ``nothing``."""
    conclusion: str
    windows: int
    """That were searched for a mark."""
    marks: list[Finding]
    metadata: "Metadata"

    @property
    def is_changed(self) -> bool:
        """What was signed is not what is there."""
        from live_avatar.provenance.reading import INVALID

        return self.metadata.state == INVALID or self.conclusion == FOREIGN


ABSENT_METADATA = "the mark alone is there: the signed metadata was lost when the video was copied or encoded again"
CHANGED_SINCE = "the signed metadata does not hold: the file was changed after it was signed"
FOREIGN = "metadata and mark name different sessions: the metadata is that of another video"
UNMARKED = "as signed; no mark was looked for or found in the frames"
AS_SIGNED = "as signed"
NOTHING = "neither signed metadata nor a mark was found"


def verify(
    files: Annotated[list[Path], _FILES],
    key_file: Annotated[Path | None, _KEY_FILE] = None,
    trust: Annotated[Path | None, _TRUST] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of one object per file.")] = False,
) -> None:
    """Read the signed metadata of videos, and look for the mark in their frames.

    Exit code 0: each file has one of the two, and it holds. 1: some file has neither. 2: an error. 3: some file was
    changed after it was signed. Without a key metadata alone is read.
    """
    from live_avatar.provenance.reading import ABSENT, read_metadata

    anchors = "" if trust is None else _read(trust, MAX_TRUST_BYTES, "authorities").decode(errors="replace")
    detector, reports = _detector(key_file), []
    for file in files:
        metadata = read_metadata(file, anchors)
        if detector is None and metadata.state == ABSENT:
            raise ValueError(f"{file} has no signed metadata, and no key: give --key-file, or set {KEY_VARIABLE}")
        reports.append(conclude(file, metadata, None if detector is None else search(file, detector)))
        if not as_json:
            typer.echo("\n".join(_lines(reports[-1])))
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports], indent=1))
    if any(report.is_changed for report in reports):
        raise typer.Exit(CHANGED)
    if any(report.carries == "nothing" for report in reports):
        raise typer.Exit(NOT_FOUND)


def search(file: Path, detector: "Detector") -> Marks:
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
    return Marks(count, list(marks.values()))


def conclude(file: Path, metadata: "Metadata", marks: Marks | None) -> Report:
    """What metadata and marks say together; without ``marks`` none were looked for."""
    from live_avatar.provenance.reading import ABSENT

    found = [] if marks is None else marks.found
    kinds = [kind for kind, there in (("metadata", metadata.state != ABSENT), ("mark", bool(found))) if there]
    return Report(
        file=str(file),
        carries=" and ".join(kinds) or "nothing",
        conclusion=_conclusion(metadata, found),
        windows=0 if marks is None else marks.windows,
        marks=found,
        metadata=metadata,
    )


def _conclusion(metadata: "Metadata", found: list[Finding]) -> str:
    from live_avatar.provenance.reading import ABSENT, INVALID

    if metadata.state == ABSENT:
        return ABSENT_METADATA if found else NOTHING
    if metadata.state == INVALID:
        return CHANGED_SINCE
    if not found:
        return UNMARKED
    return AS_SIGNED if _agree(metadata, found) else FOREIGN


def _agree(metadata: "Metadata", found: list[Finding]) -> bool:
    """The metadata's session is the only one that the frames name."""
    from live_avatar.provenance.facts import mark_value
    from live_avatar.watermark.payload import session_number

    if metadata.mark:
        return all(mark_value(mark.deployment, mark.session) == metadata.mark for mark in found)
    return not metadata.session_id or all(mark.session == session_number(metadata.session_id) for mark in found)


def _detector(key_file: Path | None) -> "Detector | None":
    from live_avatar.watermark.carrier import carrier_of
    from live_avatar.watermark.detection import Detector

    if key_file is not None:
        return Detector(carrier_of(_read(key_file, MAX_KEY_BYTES, "key")))
    key = os.environ.get(KEY_VARIABLE, "")
    return Detector(carrier_of(key.encode())) if key else None


def _read(file: Path, limit: int, what: str) -> bytes:
    """A small file as bytes, without the end of the line."""
    with file.open("rb") as opened:
        data = opened.read(limit + 1).rstrip(b"\r\n")
    if len(data) > limit:
        raise ValueError(f"{file} has more than {limit} bytes, which is no {what}")
    return data


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.file}: {report.conclusion}"
    if report.metadata.state != "absent":
        yield f"  metadata: {_described(report.metadata)}"
    if report.windows and not report.marks:
        yield f"  no mark found in {report.windows} windows of 2 s"
    for mark in report.marks:
        slots = "slot unreadable" if mark.first_slot is None else f"slots {mark.first_slot} to {mark.last_slot}"
        yield (
            f"  marked by deployment {mark.deployment}, session {mark.session:06x}, {slots}, "
            f"in {mark.windows} of {report.windows} windows"
        )
        if mark.first_slot:
            yield f"  the first {mark.first_slot * 30.72:.0f} s of the session are missing"


def _described(metadata: "Metadata") -> str:
    parts = [f"{metadata.state}, signed by {metadata.signer or 'nobody'}"]
    parts.append("trusted" if metadata.trusted else "not a trusted signer")
    parts += [f"made by {metadata.generator}"] if metadata.generator else []
    parts += [f"at {metadata.created}"] if metadata.created else []
    parts += [f"session {metadata.session_id}"] if metadata.session_id else []
    parts += [f"failed: {', '.join(metadata.failures)}"] if metadata.failures else []
    return ", ".join(parts)
