"""Plans the evaluation: the variants that the given weights allow, and the sessions of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.avatar import Avatar
from evaluation.teacher import GUIDANCE, PIECE_BLOCKS, STEPS, Teacher
from evaluation.thresholds import DECODED, OURS, UNDISTILLED
from evaluation.variants import Decoded, Streamed, TeacherVariant, TrueFrames, Variant
from evaluation.windows import TimeWindow
from live_avatar.config import Preset

TRUTH = "true frames"
FOR_EVER = float("inf")
ABLATIONS_S = 1000.0
"""How long a session without a part of the rolling sink is followed."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Folders of weights, of which all but the first may be missing."""

    given: Path
    undistilled: Path | None = None
    """Plain flow-matching weights, where the given ones are distilled and have no adapter that could be left out."""
    clean_trained: Path | None = None
    """Weights trained with ``--clean-history true``."""


@dataclass(frozen=True)
class Job:
    """One session to be recorded."""

    row: Variant
    number: int
    """Of the subject."""
    spans: tuple[TimeWindow, ...]


def rows_of(preset: Preset, weights: Weights, guidance: float = GUIDANCE) -> tuple[list[Variant], dict[str, str]]:
    """The rows that the weights allow, and by name why others are missing.

    Raises:
        WeightsError: a folder does not hold what it must.
    """
    ours = Avatar(preset, weights.given)
    base, missing = _undistilled(preset, weights, ours), {}
    rows: list[Variant] = [
        TrueFrames(name=TRUTH, about="the synthetic clip as it was rendered; what the metrics give for the truth"),
        Decoded(name=DECODED, about="true frames through the autoencoder, decoded as a stream", avatar=ours),
        _teacher_variant(base or ours, guidance),
        Streamed(name=OURS, about="the product: causal, streamed, AAS, Rolling RoPE, noisy history", avatar=ours,
                 furthest_s=FOR_EVER),
        Streamed(name="3 steps", about="the same with three steps", avatar=ours, steps=3),
        Streamed(name="clean K/V cache", about="every finished block goes through the network once more, at noise "
                 "level 0, and is remembered so: five passes instead of four, in one stage", avatar=ours,
                 clean_history=True),
        Streamed(name="without AAS", about="the portrait stays the sink", avatar=ours, switches_sink=False,
                 furthest_s=ABLATIONS_S),
        Streamed(name="without Rolling RoPE", about="the reference stays at the frame position of the prefill",
                 avatar=ours, rolls=False, furthest_s=ABLATIONS_S),
    ]  # fmt: skip
    if base is None:
        missing[UNDISTILLED] = "the weights have no adapter to leave out; `--undistilled DIR` gives others"
    else:
        rows.append(Streamed(name=UNDISTILLED, about="the base weights before self-forcing", avatar=base))
    if weights.clean_trained is None:
        missing["without History Corrupt"] = (
            "it is a matter of training; `--without-history-corrupt DIR` gives weights of "
            "`self_forcing --clean-history true`"
        )
    else:
        clean = Avatar(preset, weights.clean_trained)
        rows.append(Streamed(name="without History Corrupt", about="trained on a clean history, served like 4 steps",
                             avatar=clean))  # fmt: skip
    return rows, missing


def _undistilled(preset: Preset, weights: Weights, ours: Avatar) -> Avatar | None:
    if weights.undistilled is not None:
        return Avatar(preset, weights.undistilled, with_adapter=False)
    return Avatar(preset, weights.given, with_adapter=False) if ours.has_adapter else None


def _teacher_variant(base: Avatar, guidance: float) -> TeacherVariant:
    about = (
        f"bidirectional, {STEPS} steps of flow matching, guidance {guidance:g}, no history: each piece of "
        f"{PIECE_BLOCKS} blocks, as long as its training clips, is made at once from portrait, prompt and sound"
    )
    name = f"teacher, {STEPS} steps"
    return TeacherVariant(name=name, about=about, avatar=base, teacher=Teacher(base, guidance))


def jobs_of(
    rows: Sequence[Variant], clips: int, near: Sequence[TimeWindow], far: Sequence[TimeWindow], far_clips: int
) -> Iterator[Job]:
    """Short sessions of all rows first, then the long ones."""
    for row in rows:
        spans = _reached(row, near)
        yield from (Job(row, number, spans) for number in range(clips))
    for row in rows:
        spans = _reached(row, [*near, *far])
        if spans != _reached(row, near):
            yield from (Job(row, number, spans) for number in range(min(clips, far_clips)))


def _reached(row: Variant, spans: Sequence[TimeWindow]) -> tuple[TimeWindow, ...]:
    return tuple(span for span in spans if span.start_s <= row.furthest_s)
