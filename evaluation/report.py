"""The numbers as Markdown: what is wanted, the table, what every row does."""

from collections.abc import Iterable, Mapping, Sequence

from evaluation.results import Line, Numbers
from evaluation.thresholds import DECODED, Threshold
from evaluation.variants import Variant

_COLUMNS = (
    "row", "seconds", "clips", "r", "of decoded", "on time", "other r", "amplitude", "identity", "likeness",
    "drift", "sharpness", "fps",
)  # fmt: skip


def report(
    title: str,
    lines: Sequence[Line],
    bars: Iterable[Threshold],
    rows: Iterable[Variant],
    missing: Mapping[str, str],
    recordings: Mapping[str, Numbers],
) -> str:
    """All of it.

    Args:
        title: what was measured, and where.
        lines: the table.
        bars: what is wanted.
        rows: what stands in the table.
        missing: rows that do not, and why.
        recordings: what recorded speech gave, by file.
    """
    parts = [f"# Quality: {title}", *_table(lines), "", *bars_table(bars), "", "What the rows are:", ""]
    parts += [f"- **{row.name}**: {row.about}." for row in rows]
    parts += [f"- **{name}** is not there: {why}." for name, why in missing.items()]
    return "\n".join([*parts, *_recordings(recordings), ""])


def _recordings(recordings: Mapping[str, Numbers]) -> list[str]:
    if not recordings:
        return []
    titles = ("recorded speech", "seconds", "r with loudness", "best lag", "r of true synthetic mouths")
    rows = ["", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, stored in recordings.items():
        numbers = f"{stored['seconds']:.1f} | {stored['sync']:.2f} | {stored['lag']:+.1f} | {stored['puppet']:.2f}"
        rows.append(f"| {name} | {numbers} |")
    return rows


def _table(lines: Sequence[Line]) -> list[str]:
    whole = next((line.means["sync"] for line in lines if line.row == DECODED), None)
    rows = ["", "| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    return rows + ["| " + " | ".join(_cells(line, whole)) + " |" for line in lines]


def _cells(line: Line, decoded: float | None) -> list[str]:
    means, fps = line.means, line.frames_per_second
    return [
        line.row,
        line.span.removesuffix(" s"),
        str(line.clips),
        f"{means['sync']:.3f}",
        f"{means['sync'] / decoded:.2f}" if decoded else "",
        f"{line.on_time:.0%}",
        f"{means['other']:.2f}",
        f"{means['amplitude']:.2f}",
        f"{means['identity']:.0%}",
        f"{means['likeness']:.2f}",
        f"{means['drift']:.1f}",
        f"{means['sharpness']:.2f}",
        "" if fps is None else f"{fps:.1f}",
    ]


def bars_table(bars: Iterable[Threshold]) -> list[str]:
    """What is wanted and whether it is met, as lines of Markdown."""
    rows = ["| wanted | value | bar | |", "|---|---|---|---|"]
    for bar in bars:
        value = "" if bar.value is None else f"{bar.value:.3g}"
        rows.append(f"| {bar.what} | {value} | {bar.bounds} | {bar.verdict} |")
    return rows
