"""The gate before 8-bit layers: its report, and who gets past it."""

import json
import sys
from pathlib import Path

import pytest

from live_avatar.services.denoise_stage import quantization_check
from live_avatar.services.denoise_stage.quantization_check import check_report


def report(folder: Path, **message: object) -> Path:
    file = folder / "report.json"
    file.write_text(json.dumps(message))
    return file


def test_a_report_that_says_yes_about_these_weights_opens_it(tmp_path: Path) -> None:
    check_report(report(tmp_path, digest="abc", passed=True), "abc")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"digest": "abc", "passed": False}, "did not pass"),
        ({"digest": "abc", "passed": "yes"}, "did not pass"),
        ({"digest": "other", "passed": True}, "about weights other"),
        ({"passed": True}, "cannot be read"),
    ],
)
def test_any_other_report_does_not(tmp_path: Path, message: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_report(report(tmp_path, **message), "abc")


def test_neither_does_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs --fp8-report"):
        check_report(None, "abc")
    with pytest.raises(ValueError, match="cannot be read"):
        check_report(tmp_path / "missing.json", "abc")


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gate", "--out", str(tmp_path)])
    monkeypatch.setattr(quantization_check, "measure", lambda *_: pytest.fail("it measures"))
    with pytest.raises(SystemExit, match="2"):
        quantization_check.main()
    assert f"{tmp_path} is a folder; name a file in it" in capsys.readouterr().err
