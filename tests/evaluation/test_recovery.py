"""The measurement of sessions that go on: what it writes, and that its numbers show a history that was lost."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import __main__ as quality
from evaluation import recovery
from evaluation.avatar import Avatar
from evaluation.dataset import subject
from live_avatar.cli.inputs import TRAINED
from live_avatar.config import TINY
from tests.evaluation.parts import SIDE, evaluator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PLACES", (2, 5))
    monkeypatch.setattr(recovery, "SECONDS", 1)
    monkeypatch.setattr(quality, "fit_evaluator", lambda span, preset, size: evaluator(span))


def test_a_run_writes_table_numbers_and_sheet(tmp_path: Path) -> None:
    assert quality.main(["--recovery", "--clips", "1", "--out", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "recovery.json").read_text())
    assert set(stored["ways"]) == {f"{kept} blocks, at {place}" for kept in (4, 1) for place in (2, 5)}
    (measured,) = stored["ways"]["4 blocks, at 5"]
    assert measured["psnr"] > stored["ways"]["1 blocks, at 5"][0]["psnr"] > 30
    assert measured["identity"] == 1.0
    assert stored["bars"][f"r of the {recovery.SECONDS} s after going on, over undisturbed"] > recovery.LEAST_RATIO
    assert "| 2 blocks | 1.0 s |" in (tmp_path / "recovery.md").read_text()
    with Image.open(tmp_path / "recovery.png") as sheet:
        assert sheet.width > 1000


def test_other_frames_are_found_out() -> None:
    span = recovery.session_span(TINY)
    sessions = recovery.Sessions(Avatar(TINY, TRAINED), seed=0)
    session = sessions.undisturbed(subject(0, span, TINY, SIDE), span)
    first, count = recovery.first_frame(5, TINY), recovery.frames_compared(TINY)
    there = session.frames[first : first + count]
    same = recovery.numbers(evaluator(span), session, 5, there, TINY)
    assert same["sync"] == same["sync_undisturbed"] and same["jump"] == same["jump_undisturbed"]
    late = recovery.numbers(evaluator(span), session, 5, session.frames[first - 9 : first - 9 + count], TINY)
    assert late["sync"] < same["sync"] and late["psnr"] < 40
    noise = np.random.default_rng(0).integers(0, 256, there.shape, np.uint8)
    other = recovery.numbers(evaluator(span), session, 5, noise, TINY)
    assert other["jump"] > 10 * same["jump"] and other["jump_psnr"] < same["jump_psnr"]
    in_step, _, smooth = recovery.thresholds([other])
    assert (in_step.verdict, smooth.verdict) == ("**no**", "**no**")
