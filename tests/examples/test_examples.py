"""The programs of examples/ run as their first lines say, and the README shows them as they are."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import pytest

from live_avatar.cli.inputs import PORTRAIT, SPEECH

from .conftest import ROOT

EXAMPLES = ROOT / "examples"
GO_PROGRAMS = ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
RUN_S = 120
SPEECH_S = 6.72


def run(command: Sequence[str | Path], folder: Path, timeout_s: float = RUN_S) -> str:
    """What a program says on standard output; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, timeout=timeout_s, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def seconds_of(movie: Path) -> dict[str, float]:
    """Length of each track of a video, which can be decoded to its end."""
    with av.open(str(movie)) as container:
        ends = {"video": 0.0, "audio": 0.0}
        for frame in container.decode():
            kind = "video" if isinstance(frame, av.VideoFrame) else "audio"
            assert frame.time is not None
            ends[kind] = max(ends[kind], frame.time)
    return ends


def check_whole(movie: Path) -> None:
    """The video holds all of the speech, with its pictures."""
    assert all(abs(end - SPEECH_S) < 0.1 for end in seconds_of(movie).values()), seconds_of(movie)


def test_python_generates(gateway: str, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    run([sys.executable, EXAMPLES / "python/generate.py", gateway, PORTRAIT, SPEECH, out], tmp_path)
    check_whole(out)


def test_python_conversation(gateway: str, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    message = run([sys.executable, EXAMPLES / "python/conversation.py", gateway, PORTRAIT, SPEECH, out], tmp_path)
    events = [tuple(line.split()[2:]) for line in message.splitlines()]
    assert ("UTTERANCE_INTERRUPTED", "question") in events
    assert ("UTTERANCE_FINISHED", "answer") in events
    assert seconds_of(out)["video"] > 2


def test_node_generates(gateway: str, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    for name in ("package.json", "generate.mjs"):
        shutil.copy(EXAMPLES / "node" / name, tmp_path)
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund"], cwd=tmp_path, timeout=RUN_S, capture_output=True, check=False
    )
    if installed.returncode:
        pytest.skip("no package registry can be reached")
    out = tmp_path / "out.mp4"
    run(["node", "generate.mjs", gateway, ROOT / "protos", PORTRAIT, SPEECH, out], tmp_path)
    check_whole(out)


@pytest.mark.skipif(not all(map(shutil.which, GO_PROGRAMS)), reason=f"needs {', '.join(GO_PROGRAMS)}: make test-go")
def test_go_generates(gateway: str, tmp_path: Path) -> None:
    """With Debian's packages of Go: no module is fetched."""
    package = tmp_path / "src" / "example.com" / "generate"
    package.mkdir(parents=True)
    shutil.copy(EXAMPLES / "go" / "main.go", package)
    run(["bash", EXAMPLES / "go" / "generate.sh", ROOT / "protos", package], tmp_path)
    environment = ["env", "GO111MODULE=off", f"GOPATH={tmp_path}:/usr/share/gocode", f"GOCACHE={tmp_path / 'cache'}"]
    run([*environment, "go", "build", "-o", tmp_path / "generate", "example.com/generate"], package, timeout_s=280)
    out = tmp_path / "out.mp4"
    run([tmp_path / "generate", gateway, PORTRAIT, SPEECH, out], tmp_path)
    check_whole(out)


def test_the_readme_shows_the_example() -> None:
    program = (EXAMPLES / "python/generate.py").read_text()
    assert f"```python\n{program}```" in (ROOT / "README.md").read_text()


def test_the_protos_load_on_their_own(tmp_path: Path) -> None:
    """With protoc's own includes and nothing of googleapis."""
    program = (
        "import grpc_tools, sys; from importlib.resources import files; from grpc_tools import protoc\n"
        "own = files('grpc_tools') / '_proto'\n"
        "sys.exit(protoc.main(['', f'-I{own}', '-I.', '--descriptor_set_out=' + sys.argv[1],\n"
        "                      'live_avatar/v1/avatar_service.proto']))"
    )
    run([sys.executable, "-I", "-c", program, tmp_path / "all.binpb"], ROOT / "protos")
    assert (tmp_path / "all.binpb").stat().st_size > 0
