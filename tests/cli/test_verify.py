"""``live-avatar verify`` names the mark in a file or says that there is none; what it cannot read is one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from live_avatar.cli.main import app
from live_avatar.services.vae_decoder.h264 import H264Encoder
from live_avatar.watermark.payload import session_number
from tests.watermark.marking import DEPLOYMENT, KEY, SESSION_ID, Pixels, marked, portrait


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    clip = portrait(256, 256, 105)
    (folder / "key").write_bytes(KEY + b"\n")
    _save(marked(clip), folder / "marked.h264")
    _save(clip, folder / "plain.h264")
    _save(clip[:10], folder / "short.h264")
    (folder / "text.txt").write_text("no video\n")
    return folder


def _save(clip: Pixels, file: Path) -> None:
    encoder = H264Encoder(clip.shape[2], clip.shape[1], 25)
    blocks = [clip[:9], *(clip[first : first + 12] for first in range(9, len(clip), 12))]
    file.write_bytes(b"".join(b"".join(encoder.encode(block, starts_block=True)) for block in blocks if len(block)))


def _verify(folder: Path, *names: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["verify", "--key-file", str(folder / "key"), *names], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_a_marked_file_names_deployment_session_and_slots(folder: Path) -> None:
    code, out, _ = _verify(folder, "--json", str(folder / "marked.h264"))
    (report,) = json.loads(out)
    (mark,) = report["marks"]
    assert code == 0
    assert (mark["deployment"], mark["session"]) == (DEPLOYMENT, session_number(SESSION_ID))
    assert (mark["first_slot"], mark["last_slot"], mark["windows"]) == (0, 0, report["windows"])


def test_one_file_without_a_mark_makes_the_code_1(folder: Path) -> None:
    code, out, _ = _verify(folder, str(folder / "marked.h264"), str(folder / "plain.h264"))
    assert code == 1
    assert f"marked by deployment {DEPLOYMENT}, session {session_number(SESSION_ID):06x}, slots 0 to 0" in out
    assert "plain.h264: neither signed metadata nor a mark was found" in out


@pytest.mark.parametrize("name, words", [("text.txt", "video"), ("short.h264", "too short"), ("absent.mp4", "absent")])
def test_what_cannot_be_searched_is_one_line(folder: Path, name: str, words: str) -> None:
    code, out, error = _verify(folder, str(folder / name))
    assert (code, out) == (2, "")
    assert words in error
    assert error.count("\n") == 1


def test_without_a_key_or_with_a_short_one_nothing_is_searched(folder: Path) -> None:
    plain = str(folder / "plain.h264")
    result = CliRunner().invoke(app, ["verify", plain], env={"LIVE_AVATAR_WATERMARK_KEY": None})
    assert (result.exit_code, "no key" in result.stderr) == (2, True)
    result = CliRunner().invoke(app, ["verify", plain], env={"LIVE_AVATAR_WATERMARK_KEY": "short"})
    assert (result.exit_code, "at least 16" in result.stderr) == (2, True)
