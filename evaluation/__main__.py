"""How good the pictures are: ``python -m evaluation``; of videos from elsewhere: ``--videos FOLDER``; of
sessions that went on after their pipeline was lost: ``--recovery``.

Without ``--videos`` it records people of the held-out synthetic set with every row of the table, measures, and writes
``quality.md``, ``quality.json`` and ``quality.png``.  A run that was stopped continues.
``docs/performance/quality.md`` says what the numbers mean.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.__main__ import machine
from evaluation import public, recovery
from evaluation.avatar import Avatar
from evaluation.checkpoints import exported
from evaluation.contact_sheet import Part, people_part, save_sheet, strip_file
from evaluation.evaluator import fit_evaluator
from evaluation.plan import TRUTH, Weights, jobs_of, rows_of
from evaluation.recorder import Recorder
from evaluation.recordings import measure_recordings
from evaluation.report import report
from evaluation.results import Results
from evaluation.services import served
from evaluation.teacher import GUIDANCE
from evaluation.thresholds import LATE_S, OURS, SERVED, bars
from evaluation.variants import Streamed, Variant
from evaluation.windows import spans_of
from live_avatar.cli.inputs import TRAINED
from live_avatar.config import TINY, preset
from live_avatar.files import write_text
from live_avatar.memory import largest_size

PEOPLE_ON_SHEET = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what was asked for; the exit status, 1 where nothing could be measured."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.starts or given.starts[0]:
        parser.error("--starts must begin with 0: the first seconds are what others are compared with")
    if given.videos is not None:
        return public.measure(given.videos, given.true_videos, given.metric_weights, given.out)
    with contextlib.ExitStack() as stack:
        if given.checkpoint is not None:
            given.weights = stack.enter_context(exported(given.checkpoint, given.weights))
        if given.recovery:
            return _measure_recovery(given)
        _measure(given, stack)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation", description=__doc__)
    add = parser.add_argument
    add("--weights", type=Path, default=TRAINED, help="folder of weights; the package's own by default")
    add("--checkpoint", type=Path, help="training run whose newest weights take the place of those of --weights")
    add("--undistilled", type=Path, help="weights before self-forcing, for teacher and comparison")
    add("--without-history-corrupt", type=Path, help="weights trained on a clean history")
    add("--preset", default=TINY.name, help="name or .json file")
    add("--guidance", type=float, default=GUIDANCE, help="of the teacher")
    add("--clips", type=int, default=8, help="people, each with a voice and sentences of its own")
    add("--seconds", type=float, default=10.0, help="length of what is looked at")
    add("--starts", type=_seconds, default=(0, 100), help="seconds into the session, the first one 0")
    add("--far", type=_seconds, default=(1000, LATE_S), help="the same, for --far-clips people alone; 'none'")
    add("--far-clips", type=int, default=1)
    add("--rows", nargs="+", default=[], help="only these rows, by name")
    add("--services", action="store_true", help="one more row: 4 steps through the services as processes")
    add("--speech", nargs="+", type=Path, default=[], help="recordings of people to follow")
    add("--seed", type=int, default=0)
    add("--again", action="store_true", help="measure anew what the result holds already")
    add("--out", type=Path, default=Path("out"), help="folder of the results")
    add("--recovery", action="store_true", help="instead: sessions that go on after their pipeline was lost")
    add("--videos", type=Path, help="instead: a folder of videos with sound, for the public metrics")
    add("--true-videos", type=Path, help="true videos, which FID and FVD compare with")
    add("--metric-weights", type=Path, default=Path("weights/metrics"), help="folder of the public metrics' weights")
    return parser


def _seconds(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(part) for part in text.split(","))


def _measure(given: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    """Records, measures and reports."""
    system = preset(given.preset)
    spans = spans_of([*given.starts, *given.far], given.seconds, system)
    near, far = spans[: len(given.starts)], spans[len(given.starts) :]
    folders = Weights(given=given.weights, undistilled=given.undistilled, clean_trained=given.without_history_corrupt)
    rows, missing = rows_of(system, folders, given.guidance)
    if given.services:
        rows.append(stack.enter_context(served(given.weights, given.preset, system, rows, given.out)))
    else:
        missing[SERVED] = "`--services` adds it"
    rows = _chosen(rows, given.rows)
    size = largest_size(system)[0]
    settings = {"preset": system.name, "seconds": given.seconds, "seed": given.seed, "size": size}
    results = Results(given.out / "quality.json", settings)
    evaluator = fit_evaluator(near[0], system, size)
    recorder = Recorder(system, size, evaluator, results, given.out / "quality", given.seed, given.again)
    jobs = list(jobs_of(rows, given.clips, near, far, given.far_clips))
    recorder.record_all(jobs)
    for row in rows:
        if isinstance(row, Streamed) and row.name == OURS:
            measure_recordings(recorder, row, near[0], given.speech)
    _write(given, results, rows, missing)


def _measure_recovery(given: argparse.Namespace) -> int:
    system = preset(given.preset)
    size = largest_size(system)[0]
    evaluator = fit_evaluator(recovery.session_span(system), system, size)
    return recovery.measure(Avatar(system, given.weights), evaluator, size, given.clips, given.seed, given.out)


def _chosen(rows: list[Variant], names: Sequence[str]) -> list[Variant]:
    if unknown := set(names) - {row.name for row in rows}:
        raise SystemExit(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in rows)}")
    return [row for row in rows if not names or row.name in names]


def _write(given: argparse.Namespace, results: Results, rows: Sequence[Variant], missing: dict[str, str]) -> None:
    lines = results.lines(rows)
    ours = next((row for row in rows if row.name == OURS), None)
    recordings = {
        name: stored
        for name, stored in results.stored["recordings"].items()
        if ours is not None and stored["digest"] == ours.digest
    }
    wanted = bars(lines, recordings, results.change(OURS, "drift", LATE_S))
    title = f"{results.stored['settings']['preset']}, {machine()}"
    text = report(title, lines, wanted, rows, missing, recordings)
    results.keep(machine=machine(), bars={bar.what: bar.value for bar in wanted})
    write_text(given.out / "quality.md", text)
    _draw(given, results, rows)
    print(text)
    print(f"written to {given.out}")


def _draw(given: argparse.Namespace, results: Results, rows: Sequence[Variant]) -> None:
    folder, people = given.out / "quality", range(min(given.clips, PEOPLE_ON_SHEET))
    starts = sorted({*given.starts, *given.far})
    parts = [
        people_part(folder, TRUTH, OURS, people),
        Part("One person and one sentence, by every row",
             tuple((row.name, strip_file(folder, row.name, 0, 0)) for row in rows)),
        Part("The same sentence later in one session, 4 steps",
             tuple((f"after {start} s", strip_file(folder, OURS, 0, start)) for start in starts)),
    ]  # fmt: skip
    save_sheet(parts, given.out / "quality.png")


if __name__ == "__main__":
    sys.exit(main())
