"""What is checked before anything starts, and how a wrong command line is answered."""

import os
import re
import subprocess
import sys
import textwrap
import wave
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from live_avatar import limits
from live_avatar.cli import inputs
from live_avatar.cli.main import app
from live_avatar.config import preset
from live_avatar.launcher import pipeline
from live_avatar.model import components

from ..client.fake_gateway import fake_gateway, serving

FAILED = 2


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``live-avatar``."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def check_refused(*arguments: str | Path, reason: str) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (FAILED, ""), errors
    assert re.fullmatch(f"live-avatar: .*{reason}.*\n", errors, re.IGNORECASE), errors


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory in which nothing may be started and nothing is left."""

    def start(*_: object) -> NoReturn:
        raise AssertionError("a service would be started")

    monkeypatch.setattr(pipeline, "Child", start)
    monkeypatch.chdir(tmp_path)
    files = sorted(os.listdir())
    yield tmp_path
    assert sorted(name for name in os.listdir() if not name.startswith("given")) == files


def silence(path: Path, seconds: float = 0.5) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(int(seconds * 32_000)))
    return path


OUT = ("--out", "film.mp4")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["generate"], "Missing option '--out'; see live-avatar generate --help"),
        (["generate", "--out"], "Option '--out' requires an argument"),
        (["generate", *OUT, "--bogus"], "No such option: --bogus"),
        (["generate", *OUT, "more"], "unexpected extra argument"),
        (["generate", *OUT, "--seed", "-1"], "'--seed'.* 0"),
        (["generate", *OUT, "--seed", str(2**64)], "'--seed'"),
        (["generate", *OUT, "--seed", "one"], "'--seed'"),
        (["generate", *OUT, "--enlargement", "9"], "'--enlargement'.* 8"),
        (["up", "--port", "65536"], "'--port'"),
        (["up", "--redis", "localhost:6379"], "--redis 'localhost:6379' is no address"),
        (["up", "--fp8-report", "absent.json"], "--fp8-report absent.json is no file"),
        (["doctor", "more"], "unexpected extra argument"),
        (["weights", "check"], "Missing argument 'DIR'; see live-avatar weights check --help"),
        (["weights", "bogus"], "No such command 'bogus'; see live-avatar weights --help"),
        (["bogus"], "No such command 'bogus'; see live-avatar --help"),
        (["--bogus"], "No such option: --bogus"),
    ],
)
def test_a_wrong_command_line_is_one_line(here: Path, arguments: list[str], reason: str) -> None:
    check_refused(*arguments, reason=reason)


@pytest.mark.parametrize("command", ["generate", "demo", "talk"])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--out", "film.avi"], "film.avi is written as MP4: name it film.mp4"),
        (["--out", "."], "is a folder"),
        (["--out", "/proc/film.mp4"], "(no file can be made|nothing may be written) in /proc"),
        (["--out", "/dev/null/film.mp4"], "not a directory"),
        ([*OUT, "--layout", "9x9"], "layout '9x9' has 81 steps, at most 50"),
        ([*OUT, "--layout", "17x1"], "layout '17x1' has 17 stages, at most 16"),
        ([*OUT, "--preset", "HUGE"], "unknown preset 'HUGE'"),
        ([*OUT, "--weights", "absent"], "--weights absent is no folder"),
        ([*OUT, "--weights", "/dev"], "--weights /dev: dit is missing"),
        ([*OUT, "--gateway", "http://host:port"], "gateway 'http://host:port' has no number"),
        ([*OUT, "--gateway", "localhost"], "the form is host:port"),
    ],
)
def test_everything_is_checked_before_anything_starts(
    here: Path, command: str, arguments: list[str], reason: str
) -> None:
    audio = ["--audio", str(silence(here / "given.wav"))] if command == "talk" else []
    check_refused(command, *audio, *arguments, reason=reason)


@pytest.mark.parametrize("command", ["generate", "talk"])
def test_inputs_are_checked_before_anything_starts(here: Path, command: str) -> None:
    audio = silence(here / "given.wav")
    (here / "given.txt").write_text("text")
    (here / "given.mp4").hardlink_to(audio)
    (here / "given.half.png").write_bytes(inputs.PORTRAIT.read_bytes()[:5_000])
    Image.new("RGB", (8, 8)).save(here / "given.tiny.png")
    (here / "given.large").write_bytes(bytes(limits.MAX_IMAGE_BYTES + 1))
    for arguments, reason in (
        ([*OUT, "--audio", audio, "--image", "absent.png"], "absent.png"),
        ([*OUT, "--audio", audio, "--image", "."], "is a directory"),
        ([*OUT, "--audio", audio, "--image", "given.txt"], "--image given.txt: the image is no JPEG, PNG, WebP"),
        ([*OUT, "--audio", audio, "--image", "given.half.png"], "--image given.half.png: the image is damaged"),
        (
            [*OUT, "--audio", audio, "--image", "given.tiny.png"],
            "given.tiny.png: the image is 8x8; .* 16 a side",
        ),
        ([*OUT, "--audio", audio, "--image", "given.large"], f"is larger than {limits.MAX_IMAGE_BYTES} bytes"),
        ([*OUT, "--audio", "absent.wav"], "absent.wav"),
        ([*OUT, "--audio", "given.txt"], "given.txt"),
        (["--out", "given.mp4", "--audio", audio], "given.mp4 is the same file as the input .*given.wav"),
        ([*OUT, "--audio", audio, "--prompt", "x" * 2_001], "--prompt has 2001 characters, at most 2000"),
    ):
        check_refused(command, *arguments, reason=reason)


def test_up_checks_its_layout_first(here: Path) -> None:
    check_refused("up", "--layout", "9x9", "--redis", "none", reason="layout '9x9' has 81 steps")
    (here / "given.txt").write_text("text")
    check_refused("up", "--logs", "given.txt", reason="given.txt(:| is) not a folder")
    check_refused("up", "--logs", "given.txt/logs", reason="given.txt(:| is) not a folder")


def test_the_parts_of_a_folder_of_weights() -> None:
    assert set(inputs.FILE_SETS) == set(components.FILE_SETS)
    inputs.check_weights(preset("TINY_128"), inputs.TRAINED)
    with pytest.raises(ValueError, match="is of preset TINY, not S2V_14B"):
        inputs.check_weights(preset("S2V_14B"), inputs.TRAINED)


def test_version() -> None:
    assert run("--version") == (0, f"live-avatar {version('live-avatar')}\n", "")


def commands() -> list[tuple[str, Any]]:
    group: Any = typer.main.get_command(app)
    under: Any = group.commands["weights"]
    named = {**group.commands, **{f"weights {name}": one for name, one in under.commands.items()}}
    del named["weights"]
    return list(named.items())


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_option_is_explained_with_its_default(name: str, command: Any) -> None:
    code, text, _ = run(*name.split(), "--help")
    assert code == 0
    shown = re.sub(r"\s+", "", text)
    for parameter in command.params:
        explained = parameter.help or ""
        assert len(explained.split()) >= 3, f"{name}: {parameter.name} is not explained"
        assert re.sub(r"\s+", "", explained) in shown
        default_shown = parameter.default is not None and getattr(parameter, "show_default", False)
        no_default = parameter.required or getattr(parameter, "is_flag", False)
        assert no_default or default_shown or "efault:" in explained, f"{name}: {parameter.name} has which default?"


def test_help_names_the_limits() -> None:
    _, text, _ = run("generate", "--help")
    shown = " ".join(text.split())
    for words in (
        f"at most {limits.MAX_PROMPT_CHARACTERS} characters",
        f"outside {limits.MIN_RATE_HZ}..{limits.MAX_RATE_HZ} Hz",
        f"Up to {limits.MAX_WHOLE_FILE_S} s are encoded as a whole",
        f"0..{limits.MAX_UPSCALE_FACTOR}",
        "0..2^64-1",
        limits.IMAGE_FORMATS,
        f"{limits.MAX_IMAGE_PIXELS // 10**6} megapixels",
        "MiB",
        ".mp4 or .m4v",
    ):
        assert words in shown


BLOCKER = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {packages!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Absent())
    from live_avatar.cli.main import app
    app()
"""
CLIENT_LACKS = (
    "torch",
    "transformers",
    "safetensors",
    "einops",
    "PIL",
    "pi_heif",
    "pydantic_settings",
    "structlog",
    "fakeredis",
)


def run_without(packages: tuple[str, ...], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``live-avatar`` where ``packages`` are not installed."""
    program = textwrap.dedent(BLOCKER.format(packages=packages))
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "arguments", [["demo"], ["generate", "--out", "a.mp4"], ["up"], ["talk", "--audio", str(inputs.SPEECH)]]
)
def test_an_installation_of_the_client_alone_names_its_remedy(tmp_path: Path, arguments: list[str]) -> None:
    done = run_without(CLIENT_LACKS, tmp_path, *arguments)
    assert done.returncode == FAILED
    remedy = "pip install 'live-avatar[serve]'" + (
        ", or give --gateway HOST:PORT of one that runs" * (arguments != ["up"])
    )
    assert done.stderr == f"live-avatar: no pipeline can be started here, torch is not installed: {remedy}\n"
    assert os.listdir(tmp_path) == []


def test_an_installation_of_the_client_alone_is_enough_for_a_gateway(tmp_path: Path) -> None:
    with serving(fake_gateway()) as address:
        done = run_without(CLIENT_LACKS, tmp_path, "generate", "--out", "a.mp4", "--gateway", f"http://{address}/")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_without_any_extra_the_client_is_named(tmp_path: Path) -> None:
    done = run_without(("grpc", "av", "google"), tmp_path, "generate", "--out", "a.mp4", "--gateway", "localhost:1")
    assert done.returncode == FAILED
    assert done.stderr.endswith("is not installed: pip install 'live-avatar[client]'\n")
    assert run_without(("grpc", "av", "google"), tmp_path, "--help").returncode == 0


def test_speech_with_a_colon_in_its_name_and_a_video_on_stdout(tmp_path: Path) -> None:
    silence(tmp_path / "12:30.wav", 2.0)
    gateway = fake_gateway()
    command = [sys.executable, "-m", "live_avatar.cli", "generate", "--audio", "12:30.wav", "--out", "/dev/stdout"]
    with serving(gateway) as address:
        done = subprocess.run([*command, "--gateway", address], cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout[4:8] == b"ftyp"
    assert b"/dev/stdout: 57 frames" in done.stderr
    assert len(gateway.speech) == 2 * 32_000
    assert not np.frombuffer(gateway.speech, np.int16).any()
