"""``live-avatar generate`` against a gateway without a pipeline."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import av
import grpc
import pytest
from typer.testing import CliRunner

from live_avatar.cli import inputs
from live_avatar.cli.main import app

from ..client.fake_gateway import fake_gateway, rich_status, serving

FAILED = 2


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``generate``."""
    result = CliRunner().invoke(app, ["generate", *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_samples_become_a_video(tmp_path: Path) -> None:
    gateway, out = fake_gateway(), tmp_path / "out.mp4"
    with serving(gateway) as address:
        code, output, errors = run(
            "--audio", inputs.SPEECH, "--out", out, "--gateway", address, "--prompt", "a drawing", "--seed", "3",
            "--enlargement", "2",
        )  # fmt: skip
    assert (code, output) == (0, f"{out}: 165 frames, 6.72 s\n"), errors
    assert "6.7 s of 6.7 s" in errors
    request = gateway.created[0]
    assert request.reference_image == inputs.PORTRAIT.read_bytes()
    assert (request.config.prompt, request.config.seed) == ("a drawing", 3)
    assert request.config.video.enlargement == 2
    with av.open(out) as file:
        assert [stream.codec_context.name for stream in file.streams] == ["h264", "aac"]


def check_one_line(errors: str, *words: str) -> None:
    last = errors.strip().splitlines()[-1]
    assert last.startswith("live-avatar: ")
    assert "Traceback" not in errors
    for word in words:
        assert word in last


@pytest.mark.parametrize("gateway", [[], ["--gateway", "127.0.0.1:1"]])
def test_speech_that_is_none_is_reported_before_anything_starts(tmp_path: Path, gateway: list[str]) -> None:
    (tmp_path / "a.wav").write_text("no sound at all")
    code, _, errors = run("--audio", tmp_path / "a.wav", "--out", tmp_path / "out.mp4", *gateway)
    assert code == FAILED
    assert len(errors.splitlines()) == 1
    check_one_line(errors, "a.wav is no audio file that can be read")


def test_files_that_are_absent(tmp_path: Path) -> None:
    code, _, errors = run("--audio", tmp_path / "absent.wav", "--out", tmp_path / "out.mp4")
    assert code == FAILED
    check_one_line(errors, "absent.wav")
    code, _, errors = run(
        "--audio", inputs.SPEECH, "--out", tmp_path / "out.mp4", "--image", tmp_path / "absent.png", "--gateway", "a:1"
    )
    assert code == FAILED
    check_one_line(errors, "absent.png")


def test_a_gateway_that_is_not_there(tmp_path: Path) -> None:
    code, _, errors = run("--audio", inputs.SPEECH, "--out", tmp_path / "out.mp4", "--gateway", "127.0.0.1:1")
    assert code == FAILED
    check_one_line(errors, "no gateway answers at 127.0.0.1:1")
    assert list(tmp_path.iterdir()) == []


def test_what_the_gateway_refuses(tmp_path: Path) -> None:
    gateway = fake_gateway()
    gateway.refusal = rich_status(grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_UNREADABLE")
    with serving(gateway) as address:
        code, _, errors = run("--audio", inputs.SPEECH, "--out", tmp_path / "out.mp4", "--gateway", address)
    assert code == FAILED
    check_one_line(errors, address, "IMAGE_UNREADABLE: a sentence")


def test_a_layout_that_is_none(tmp_path: Path) -> None:
    code, _, errors = run("--audio", inputs.SPEECH, "--out", tmp_path / "out.mp4", "--layout", "4by1")
    assert code == FAILED
    check_one_line(errors, "layout '4by1'")


def test_a_proxy_in_the_way_is_one_line_and_no_log_of_grpc(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        proxy = f"http://127.0.0.1:{held.getsockname()[1]}"
    command = [sys.executable, "-m", "live_avatar.cli", "generate", "--gateway", "192.0.2.1:50051"]
    done = subprocess.run(
        [*command, "--audio", inputs.SPEECH, "--out", tmp_path / "out.mp4"],
        env={**os.environ, "http_proxy": proxy}, timeout=60, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == FAILED
    message = [line for line in done.stderr.splitlines() if line.strip() and "waiting for the first frame" not in line]
    assert len(message) == 1 and "http_proxy" in message[0], done.stderr
