"""Thresholds of the metrics, and whether they are met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.results import Line, Numbers

OURS, SERVED, DECODED, UNDISTILLED = "4 steps", "4 steps, services", "true latents, decoded", "4 steps, undistilled"
LATE_S = 10_000


@dataclass(frozen=True)
class Threshold:
    """Bounds of one metric."""

    what: str
    value: float | None
    """None: not measured."""
    least: float | None = None
    most: float | None = None

    @property
    def bounds(self) -> str:
        """In words."""
        low = "" if self.least is None else f">= {self.least:g}"
        high = "" if self.most is None else f"<= {self.most:g}"
        return " and ".join(filter(None, (low, high)))

    @property
    def verdict(self) -> str:
        """Yes, no, or not measured."""
        if self.value is None:
            return "not measured"
        low = self.least is None or self.value >= self.least
        return "yes" if low and (self.most is None or self.value <= self.most) else "**no**"


def bars(lines: Sequence[Line], recordings: Mapping[str, Numbers], late_drift: float | None) -> list[Threshold]:
    """All wishes; those of 4 steps by the row through the services where there is one.

    Args:
        lines: the table.
        recordings: what recorded speech gave, by file.
        late_drift: colour drift after ``LATE_S`` over that of the first seconds.
    """
    first = {line.row: line for line in lines if line.span.startswith("0-")}
    ours, truth = first.get(SERVED, first.get(OURS)), first.get(DECODED)
    correlations = [stored["sync"] for stored in recordings.values()]
    return [
        Threshold("openness, r with the truth at most 1 frame off", _of(ours, "sync"), least=0.75),
        Threshold("clips whose best lag is at most 1 frame", _on_time(ours), least=1.0),
        Threshold("the same r over that of the true latents, decoded", _ratio(ours, truth, "sync"), least=0.9),
        Threshold("r with another sentence", _of(ours, "other"), most=0.2),
        Threshold("amplitude of the mouth over that of the truth", _of(ours, "amplitude"), least=0.85, most=1.2),
        Threshold("clips whose nearest of 50 references is the right one", _of(ours, "identity"), least=0.95),
        Threshold("colour drift after 10,000 s over that of the first seconds", late_drift, most=1.5),
        Threshold(
            "distilled 4 steps over undistilled: r", _ratio(first.get(OURS), first.get(UNDISTILLED), "sync"), least=1.0
        ),
        Threshold(
            "distilled 4 steps over undistilled: sharpness",
            _ratio(first.get(OURS), first.get(UNDISTILLED), "sharpness"),
            least=1.0,
        ),
        Threshold("autoencoder on held-out video: PSNR, dB", _of(truth, "psnr"), least=29.0),
        Threshold("the same within the mouth's box", _of(truth, "mouth_psnr"), least=27.0),
        Threshold("recorded speech: r with loudness, least of all files", min(correlations, default=None), least=0.5),
    ]


def _of(line: Line | None, key: str) -> float | None:
    return None if line is None else line.means.get(key)


def _on_time(line: Line | None) -> float | None:
    return None if line is None else line.on_time


def _ratio(one: Line | None, other: Line | None, key: str) -> float | None:
    if one is None or other is None or not other.means[key]:
        return None
    return one.means[key] / other.means[key]
