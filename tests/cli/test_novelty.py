"""A portrait that the weights do not know: what the commands say of it, and when."""

import io
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from live_avatar.cli import inputs
from live_avatar.cli.main import app
from live_avatar.cli.novelty import warn_if_unlike
from live_avatar.cli.warnings import Warnings

from ..client.fake_gateway import FakeGateway, Requests, Response, fake_gateway, rich_status, serving

Event = Response.Event
WARNING = "live-avatar: warning: the portrait is unlike those that the weights were trained on"
STOPPED = "nothing is started here"


def png(pixels: "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]") -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def unlike() -> bytes:
    """A picture of nobody."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return png(np.asarray(Image.fromarray(coarse).resize((200, 150), Image.Resampling.BICUBIC)))


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    (tmp_path / "unlike.png").write_bytes(unlike())
    return tmp_path / "unlike.png"


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    return tmp_path / "speech.wav"


def warned(capsys: pytest.CaptureFixture[str], image: bytes, preset: str, weights: Path | None) -> str:
    warn_if_unlike(image, preset, weights, Warnings())
    return capsys.readouterr().err


@pytest.mark.parametrize("preset", ["TINY", "TINY_128"])
def test_shipped_weights_know_the_sample_and_no_other_picture(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert warned(capsys, inputs.PORTRAIT.read_bytes(), preset, inputs.TRAINED) == ""
    lines = warned(capsys, unlike(), preset, inputs.TRAINED).splitlines()
    assert len(lines) == 1 and lines[0].startswith(WARNING)


def test_weights_without_a_description_bring_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(inputs.TRAINED / "vae", tmp_path / "vae")
    assert warned(capsys, unlike(), "TINY", tmp_path) == ""
    assert warned(capsys, unlike(), "TINY", None) == ""
    assert warned(capsys, unlike(), "S2V_14B", inputs.TRAINED) == "", "that autoencoder is not loaded for a warning"


def test_a_warning_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    warnings = Warnings()
    for reason in ("ONE", "ONE", "TWO"):
        warnings.show(reason, f"about {reason}")
    assert capsys.readouterr().err == "live-avatar: warning: about ONE\nlive-avatar: warning: about TWO\n"


class Refused:
    """A pipeline that does not start."""

    def __init__(self, plan: object) -> None: ...

    def __enter__(self) -> str:
        raise ValueError(STOPPED)

    def __exit__(self, *exc: object) -> None: ...


@pytest.mark.parametrize("command", ["generate", "talk"])
def test_it_is_printed_before_anything_starts(
    command: str, portrait: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "gateway_of", Refused)
    arguments = [command, "--image", portrait, "--audio", speech, "--out", speech.with_name("out.mp4")]
    lines = CliRunner().invoke(app, [str(one) for one in arguments]).stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(WARNING)
    assert lines[1] == f"live-avatar: {STOPPED}"


def warning(gateway: FakeGateway, requests: Requests) -> Iterator[Response]:
    """Warns twice, then shows a video."""
    reported = rich_status(grpc.StatusCode.FAILED_PRECONDITION, "PORTRAIT_UNLIKE_TRAINING")
    reported.message = "the gateway finds the portrait unlike"
    for _ in range(2):
        yield Response(event=Event(kind=Event.KIND_WARNING, warning=reported))
    yield from gateway.talk(requests)


@pytest.mark.parametrize("command", ["generate", "talk", "demo"])
def test_what_a_gateway_warns_of_is_one_line_and_no_failure(command: str, portrait: Path, speech: Path) -> None:
    gateway = fake_gateway()
    gateway.deliver = warning
    given = [] if command == "demo" else ["--image", portrait, "--audio", speech]
    with serving(gateway) as address:
        arguments = [command, *given, "--out", speech.with_name("out.mp4"), "--gateway", address]
        result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("live-avatar: warning: the gateway finds the portrait unlike\n") == 1
    assert "warning" not in result.stdout
