"""A picture of all services over time: one row per service, one bar per block while it was worked on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from live_avatar.files import replacing

_NS_PER_S = 1e9
_COLOURS = 20


@dataclass(frozen=True, kw_only=True)
class Span:
    """The time in which one service worked on one block; nanoseconds since 1970."""

    session: str
    block: int
    started_ns: int
    ended_ns: int
    sent_ns: int
    hop_ns: int


def read_traces(folder: Path, services: Sequence[str], session: str) -> dict[str, list[Span]]:
    """What ``benchmarks.emulated`` wrote about one session, by service in the order given.

    Raises:
        ValueError: a service wrote nothing about it.
    """
    found = {}
    for service in services:
        lines = [json.loads(line) for line in (folder / f"{service}.jsonl").read_text().splitlines()]
        spans = [Span(**{name: line[name] for name in Span.__dataclass_fields__}) for line in lines]
        found[service] = [span for span in spans if span.session == session]
        if not found[service]:
            raise ValueError(f"{service} wrote nothing about session {session!r} to {folder}")
    return found


def busy(spans: Sequence[Span], first: int) -> float:
    """Part of the time from the start of block ``first`` to the end of the last one in which the service worked."""
    steady = [span for span in spans if span.block >= first]
    worked = sum(span.ended_ns - span.started_ns for span in steady)
    return worked / (steady[-1].ended_ns - steady[0].started_ns)


def draw(spans: Mapping[str, Sequence[Span]], out: Path, *, title: str, seconds: float, steady_from: int) -> None:
    """Writes the picture of the first ``seconds`` as a PNG; busy shares are of the blocks from ``steady_from`` on."""
    begin_ns = min(span.started_ns for several in spans.values() for span in several)
    colours = matplotlib.colormaps["tab20"]
    figure = Figure(figsize=(13, 0.7 * len(spans) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    for row, several in enumerate(spans.values()):
        for span in several:
            start_s, length_s = (span.started_ns - begin_ns) / _NS_PER_S, (span.ended_ns - span.started_ns) / _NS_PER_S
            if start_s > seconds:
                continue
            colour = colours(span.block % _COLOURS)
            long = length_s > seconds / 100
            bar = axes.barh(
                row, length_s, left=start_s, height=0.8, color=colour, edgecolor="white" if long else colour
            )
            if long:
                axes.bar_label(bar, [str(span.block)], label_type="center", fontsize=8, clip_on=True)
    axes.set_yticks(
        range(len(spans)), [f"{name}\n{100 * busy(several, steady_from):.1f} % busy" for name, several in spans.items()]
    )
    axes.invert_yaxis()
    axes.set(xlim=(0, seconds), xlabel="seconds; a number is a block", title=title)
    with replacing(out) as file:
        figure.savefig(file, dpi=110)
