"""The evaluation as a whole: short films of the shipped weights, a run that goes on, what it writes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from evaluation import __main__ as quality
from evaluation import recordings, variants
from evaluation.dataset import SessionVideo
from evaluation.results import Results
from evaluation.thresholds import DECODED, LATE_S, OURS, SERVED, Threshold, bars
from evaluation.variants import TrueFrames
from evaluation.windows import TimeWindow
from live_avatar.cli.inputs import SPEECH
from tests.evaluation.parts import evaluator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHORT = ["--clips", "1", "--seconds", "1.44", "--starts", "0", "--far", "2", "--far-clips", "1"]


@pytest.fixture(autouse=True)
def small_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "fit_evaluator", lambda span, preset, size: evaluator(span))


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "PEOPLE", 1)
    monkeypatch.setattr(recordings, "LONGEST_S", 2)
    arguments = [*SHORT, "--speech", str(SPEECH), "--out", str(tmp_path)]
    assert quality.main(arguments) == 0
    stored = json.loads((tmp_path / "quality.json").read_text())
    names = {"true frames", DECODED, "teacher, 40 steps", OURS, "3 steps", "clean K/V cache", "without AAS"}
    assert names | {"without Rolling RoPE"} <= set(stored["rows"])
    ours = stored["rows"][OURS]["clips"]["0"]
    assert set(ours) == {"0-1.44 s", "2-3.44 s"}
    assert ours["0-1.44 s"]["sync"] > 0.3, "the mouth follows"
    assert stored["rows"][DECODED]["clips"]["0"]["0-1.44 s"]["psnr"] > 20
    assert stored["rows"][OURS]["frames_per_second"]["0"] > 0
    assert stored["recordings"][SPEECH.name]["seconds"] == pytest.approx(1.92)
    text = (tmp_path / "quality.md").read_text()
    assert f"| {OURS} | 2-3.44 | 1 |" in text
    assert "without History Corrupt** is not there" in text and SERVED in text
    with Image.open(tmp_path / "quality.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 1000
    assert sheet_is_rewritten_without_filming(arguments, tmp_path, monkeypatch)


def sheet_is_rewritten_without_filming(arguments: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A second run finds everything measured."""

    def refuse(*_: object) -> SessionVideo:
        raise AssertionError("filmed again")

    (out / "quality.md").unlink()
    for row in (variants.Streamed, variants.TeacherVariant, variants.Decoded, variants.TrueFrames):
        monkeypatch.setattr(row, "record", refuse)
    monkeypatch.setattr("evaluation.recordings.measure_recording", refuse)
    assert quality.main(arguments) == 0
    return (out / "quality.md").exists()


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no row 5 steps"):
        quality.main([*SHORT, "--rows", "5 steps", "--out", str(tmp_path)])


@pytest.mark.alone
def test_the_row_through_the_services(tmp_path: Path) -> None:
    arguments = [*SHORT, "--far", "none", "--services", "--rows", OURS, SERVED, "--out", str(tmp_path)]
    assert quality.main(arguments) == 0
    stored = json.loads((tmp_path / "quality.json").read_text())["rows"]
    here, there = (stored[name]["clips"]["0"]["0-1.44 s"] for name in (OURS, SERVED))
    assert abs(here["drift"] - there["drift"]) < 2
    assert there["sync"] > 0.3 and there["identity"] == here["identity"]
    assert stored[SERVED]["frames_per_second"]["0"] > 0


def numbers(**some: float) -> dict[str, float]:
    plain = {"sync": 0.8, "lag": 0.0, "other": 0.1, "amplitude": 1.0, "identity": 1.0, "drift": 2.0, "sharpness": 1.0}
    return plain | some


def test_numbers_of_other_weights_or_settings_are_dropped(tmp_path: Path) -> None:
    file, span, row = tmp_path / "quality.json", TimeWindow(0, 10, 0, 21), TrueFrames(name="row", about="", digest="a")
    results = Results(file, {"seed": 0})
    results.stored["rows"]["row"] = {"digest": "a", "clips": {"0": {str(span): numbers()}}, "frames_per_second": {}}
    results.save()
    assert Results(file, {"seed": 0}).has(row, 0, [span])
    assert not Results(file, {"seed": 0}).has(row, 1, [span])
    assert not Results(file, {"seed": 1}).has(row, 0, [span])
    assert not Results(file, {"seed": 0}).has(TrueFrames(name="row", about="", digest="b"), 0, [span])


def test_late_drift_is_that_of_the_same_people(tmp_path: Path) -> None:
    results = Results(tmp_path / "quality.json", {})
    early, late = "0-10 s", f"{LATE_S}-{LATE_S + 10} s"
    clips = {"0": {early: numbers(drift=2.0), late: numbers(drift=5.0)}, "1": {early: numbers(drift=50.0)}}
    row = TrueFrames(name=OURS, about="")
    results.stored["rows"][OURS] = {"digest": row.digest, "clips": clips, "frames_per_second": {}}
    assert results.change(OURS, "drift", LATE_S) == 2.5
    assert results.change(OURS, "drift", 77) is None
    first, second = results.lines([row])
    assert (first.span, first.clips, first.means["drift"]) == (early, 2, 26.0)
    assert (second.span, second.clips) == (late, 1)
    found = {bar.what: bar for bar in bars([first, second], {"a.wav": {"sync": 0.4}}, 2.5)}
    assert found["colour drift after 10,000 s over that of the first seconds"].verdict == "**no**"
    assert found["amplitude of the mouth over that of the truth"].verdict == "yes"
    assert found["recorded speech: r with loudness, least of all files"].verdict == "**no**"
    assert found["autoencoder on held-out video: PSNR, dB"].verdict == "not measured"


def test_a_bar_holds_within_its_bounds() -> None:
    assert Threshold("x", 1.0, least=0.85, most=1.2).verdict == "yes"
    assert Threshold("x", 1.3, least=0.85, most=1.2).verdict == "**no**"
    assert Threshold("x", 1.0, least=0.85, most=1.2).bounds == ">= 0.85 and <= 1.2"
