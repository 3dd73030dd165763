"""``live-avatar weights``: exit codes and what is printed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from live_avatar.cli.inputs import TRAINED
from live_avatar.cli.main import app
from live_avatar.config import S2V_14B, TINY
from live_avatar.model import components

from .. import public_download

FAILED, NOT_LOADABLE = 2, 1


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("download")
    public_download.write(folder)
    return folder


@pytest.fixture
def converted(download: Path, tmp_path: Path) -> Path:
    code, output, errors = run("weights", "convert", download, tmp_path / "out", "--preset", "TINY")
    assert (code, errors) == (0, "")
    assert [line.split()[0] for line in output.splitlines()] == [*components.FILE_SETS, components.ADAPTER]
    return tmp_path / "out"


def test_converted_weights_are_loadable(converted: Path) -> None:
    code, output, _ = run("weights", "check", converted, "--preset", "TINY")
    assert code == 0
    for file_set in (*components.FILE_SETS, components.ADAPTER):
        tensors = len(components.public_shapes(TINY, file_set))
        assert f"{file_set}: loadable, {tensors} tensors" in output
    assert "model digest " in output
    assert output.splitlines()[-1] == f"{converted} can be loaded as TINY"


def test_the_verdict_is_the_last_line(converted: Path) -> None:
    for path in (converted / "speech").iterdir():
        path.unlink()
    code, output, _ = run("weights", "check", converted, "--preset", "TINY")
    assert code == NOT_LOADABLE
    assert output.splitlines()[-1] == f"{converted} cannot be loaded as TINY: speech"


def test_training_portraits_are_checked_where_there_are_any(tmp_path: Path) -> None:
    """They change no picture, so the digest of the model is the same with and without them."""
    shutil.copytree(TRAINED, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "portraits")
    digests = []
    for folder, has_portraits in ((TRAINED, True), (tmp_path / "bare", False)):
        code, output, _ = run("weights", "check", folder, "--preset", "TINY")
        assert code == 0
        assert ("portraits: loadable, 6 tensors" in output) == has_portraits
        digests += [line for line in output.splitlines() if line.startswith("model digest")]
    assert len(digests) == 2 and digests[0] == digests[1]
    code, output, _ = run("weights", "check", tmp_path / "bare", "--preset", "TINY", "--only", "portraits")
    assert code == NOT_LOADABLE


def test_training_portraits_of_other_weights_do_not_pass(converted: Path) -> None:
    shutil.copytree(TRAINED / "portraits", converted / "portraits")
    code, output, _ = run("weights", "check", converted, "--preset", "TINY")
    assert code == NOT_LOADABLE
    assert "portraits: measured with an autoencoder of digest" in " ".join(output.split())


def test_one_file_set_can_be_checked_alone(download: Path, tmp_path: Path) -> None:
    """What an export of the trainer leaves in an empty folder."""
    folder = tmp_path / "out"
    assert run("weights", "convert", download, folder, "--preset", "TINY", "--only", "dit")[0] == 0
    code, output, _ = run("weights", "check", folder, "--preset", "TINY", "--only", "dit")
    assert code == 0
    assert output.splitlines()[-1] == f"{folder}: dit can be loaded as part of TINY"
    code, output, _ = run("weights", "check", folder, "--preset", "TINY", "--only", "dit", "--only", "vae")
    assert code == NOT_LOADABLE
    assert output.splitlines()[-1] == f"{folder} cannot be loaded as TINY: vae"


def test_check_lists_every_missing_surplus_and_misshaped_tensor(converted: Path, tmp_path: Path) -> None:
    from live_avatar.model import checkpoint

    tensors = public_download.tensors_of("vae")
    missing = [key for key in tensors if key.startswith("decoder.middle.0")]
    for key in missing:
        del tensors[key]
    tensors["ghost"] = tensors["conv1.bias"].clone()
    tensors["conv2.bias"] = tensors["conv2.bias"][:3]
    checkpoint.write_weights(tmp_path / "new", tensors.items(), preset="TINY", component="vae")
    for path in (converted / "vae").iterdir():
        path.unlink()
    for path in (tmp_path / "new").iterdir():
        path.rename(converted / "vae" / path.name)
    code, output, _ = run("weights", "check", converted, "--preset", "TINY")
    assert code == NOT_LOADABLE
    assert [line for line in output.splitlines() if "missing: " in line] == [
        f"vae: missing: {key}" for key in sorted(missing)
    ]
    assert "vae: surplus: ghost in weights-00001.safetensors" in output
    assert "vae: misshaped: conv2.bias is [3] BF16" in output
    assert "dit: loadable" in output and "model digest" not in output


def test_check_finds_a_flipped_bit_unless_asked_not_to_read(converted: Path) -> None:
    shard = converted / "text" / "weights-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 4
    shard.write_bytes(content)
    code, output, _ = run("weights", "check", converted, "--preset", "TINY")
    assert code == NOT_LOADABLE and f"text: {shard}: damaged in tensor " in output
    assert run("weights", "check", converted, "--preset", "TINY", "--no-digests")[0] == 0


def test_check_of_an_empty_folder_names_every_file_set(tmp_path: Path) -> None:
    code, output, _ = run("weights", "check", tmp_path, "--preset", "TINY")
    assert code == NOT_LOADABLE
    assert all(f"{file_set}: {tmp_path / file_set}" in output for file_set in components.FILE_SETS)
    assert "adapter: not there" in output


def test_check_shows_the_memory_of_the_specification(tmp_path: Path) -> None:
    _, output, _ = run("weights", "check", tmp_path, "--size", "704x384")
    assert "K/V of one session on a stage of one step: 12.5 GB (window 10.4 GB, sink 2.2 GB)" in output
    rows = [line.split() for line in output.splitlines() if line.startswith(("4 x 1", "2 x 2", "1 x 4"))]
    assert [row[-5:] for row in rows if row[:4] == ["4", "x", "1", "bf16"]] == [["0", "0", "1", "3", "7"]]
    assert len(rows) == 6 + 1, "three layouts in bf16 and fp8, and the note on the last"


def test_manifest_is_json_of_keys_and_shapes() -> None:
    code, output, errors = run("weights", "manifest", "--preset", "S2V_14B")
    listed = json.loads(output)
    assert (code, errors) == (0, "")
    assert list(listed) == ["dit", "vae", "text", "speech"]
    assert {name: len(tensors) for name, tensors in listed.items()} == {
        "dit": 1260,
        "vae": 194,
        "text": 242,
        "speech": 422,
    }
    assert listed["dit"]["casual_audio_encoder.weights"] == [1, S2V_14B.dit.audio_states, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["weights", "manifest", "--preset", "HUGE"], "unknown preset 'HUGE'; there are S2V_14B, TINY"),
        (["weights", "convert", "/absent", "/absent"], "/absent: no such folder"),
        (["weights", "convert", "/dev/null", "/absent"], "/dev/null: not a folder"),
        (["weights", "convert", "/dev", "/dev/null"], "/dev/null: not a folder"),
        (["weights", "convert", "/dev", "/absent"], "/dev: no diffusion_pytorch_model"),
        (["weights", "check", "/absent"], "/absent: no such folder"),
        (["weights", "check", "/absent", "--only", "face"], "unknown file set 'face'"),
        (["weights", "convert", "/absent", "/absent", "--only", "face"], "unknown file set 'face'"),
        (["weights", "check", "/absent", "--size", "704"], "size '704' is not WIDTHxHEIGHT"),
        (["weights", "check", "/absent", "--size", "700x384"], "size 700x384 is not a whole number"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments: list[str], reason: str) -> None:
    code, output, errors = run(*arguments)
    assert code == FAILED
    assert errors.startswith(f"live-avatar: {reason}") and errors.count("\n") == 1
    assert "Traceback" not in output + errors


def test_one_file_set_can_be_converted_alone(download: Path, tmp_path: Path) -> None:
    assert run("weights", "convert", download, tmp_path / "out", "--preset", "TINY", "--only", "vae")[0] == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vae"]


def test_the_command_starts_without_torch() -> None:
    program = "import sys, live_avatar.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_absent_package_is_named_with_its_remedy() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from live_avatar.cli.main import app\n"
        "sys.argv = ['live-avatar', 'weights', 'manifest']; app()"
    )
    result = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert result.returncode == FAILED
    assert result.stderr == "live-avatar: torch is not installed: pip install 'live-avatar[serve]'\n"
