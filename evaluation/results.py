"""What has been measured, in a file that is written after every session, so that a run that was ended goes on.

Numbers stand under row, clip and span.  A row keeps them as long as its weights are the same.
"""

import json
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.dataset import SessionVideo
from evaluation.variants import Variant
from evaluation.windows import TimeWindow

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Line:
    """A line of the table: one row at one span, over its clips."""

    row: str
    span: str
    clips: int
    means: Numbers
    lags: tuple[float, ...]
    frames_per_second: float | None

    @property
    def on_time(self) -> float:
        """Share of clips whose mouth is at its best at most one frame early or late."""
        return sum(abs(lag) <= 1 for lag in self.lags) / len(self.lags)


class Results:
    """The file and what is in it.

    Args:
        file: where it is, or will be.
        settings: what all numbers depend on; those of other settings are dropped.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self._file = file
        stored = json.loads(file.read_text()) if file.exists() else {}
        same = stored.get("settings") == dict(settings)
        self.stored: dict[str, Any] = stored if same else {"settings": dict(settings), "rows": {}, "recordings": {}}

    def has(self, row: Variant, number: int, spans: Iterable[TimeWindow]) -> bool:
        """Whether these spans of clip ``number`` have been measured."""
        stored = self._row(row)["clips"].get(str(number), {})
        return all(str(span) in stored for span in spans)

    def add(self, row: Variant, number: int, video: SessionVideo, numbers: Iterable[Numbers]) -> None:
        """Keeps what a session gave."""
        entry = self._row(row)
        stored = entry["clips"].setdefault(str(number), {})
        stored |= {
            str(segment.span): dict(of_segment) for segment, of_segment in zip(video.segments, numbers, strict=True)
        }
        if video.frames_per_second is not None:
            entry["frames_per_second"][str(number)] = video.frames_per_second
        self.save()

    def add_recording(self, name: str, digest: str, numbers: Numbers) -> None:
        """Keeps what a recording gave."""
        self.stored["recordings"][name] = {"digest": digest, **numbers}
        self.save()

    def has_recording(self, name: str, digest: str) -> bool:
        """Whether it has been measured with these weights."""
        return bool(self.stored["recordings"].get(name, {}).get("digest") == digest)

    def keep(self, **facts: Any) -> None:
        """Writes ``facts`` beside the numbers."""
        self.stored |= facts
        self.save()

    def save(self) -> None:
        """Writes the file; it is there whole or as it was."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(self.stored, indent=1) + "\n")
        unfinished.replace(self._file)

    def lines(self, rows: Iterable[Variant]) -> list[Line]:
        """The table: ``rows`` in their order, the spans of each in the order of time."""
        lines = []
        for row in rows:
            entry = self._row(row)
            spans = {span: None for stored in entry["clips"].values() for span in stored}
            for span in sorted(spans, key=lambda text: int(text.partition("-")[0])):
                lines.append(_line(row.name, span, entry))
        return lines

    def change(self, row: str, key: str, late_s: int) -> float | None:
        """Mean of ``key`` at the span from ``late_s`` on over that at the start, of the clips that have both."""
        pairs = []
        for stored in self.stored["rows"].get(row, {"clips": {}})["clips"].values():
            at = {span.partition("-")[0]: numbers[key] for span, numbers in stored.items()}
            if str(late_s) in at:
                pairs.append((at["0"], at[str(late_s)]))
        return statistics.fmean(late for _, late in pairs) / statistics.fmean(at for at, _ in pairs) if pairs else None

    def _row(self, row: Variant) -> dict[str, Any]:
        entry = self.stored["rows"].get(row.name)
        if entry is None or entry["digest"] != row.digest:
            entry = {"digest": row.digest, "about": row.about, "clips": {}, "frames_per_second": {}}
            self.stored["rows"][row.name] = entry
        found: dict[str, Any] = entry
        return found


def _line(name: str, span: str, entry: Mapping[str, Any]) -> Line:
    clips = [stored[span] for stored in entry["clips"].values() if span in stored]
    means = {key: statistics.fmean(stored[key] for stored in clips) for key in clips[0]}
    rates = list(entry["frames_per_second"].values()) if span.startswith("0-") else []
    fps = statistics.median(rates) if rates else None
    return Line(name, span, len(clips), means, tuple(stored["lag"] for stored in clips), fps)
