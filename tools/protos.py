"""Generates the code of protos/ into live_avatar/, or checks that what is there is what would come out.

    python tools/protos.py             generate
    python tools/protos.py --check     exit 1 and name the files that differ; where npx has buf, lint the protos and
                                       compare the public API with that of the last release
    python tools/protos.py --release   keep the public API as that of a release

The code refuses a protobuf and a gRPC older than those that made it, so an old protoc makes it: clients have to share
an environment with packages that need an old protobuf.  That protoc needs a protobuf of its own time, so it lives in
an environment of its own, made once below this Python's.
"""

import argparse
import contextlib
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from google.rpc import code_pb2

ROOT = Path(__file__).resolve().parents[1]
PROTOC = ("grpcio-tools==1.63.2", "setuptools==80.9.0")
"""What makes the code; this grpcio-tools imports pkg_resources, which later setuptools do not have."""
PLUGINS = {"python": "", "grpc_python": "", "mypy": "quiet:", "mypy_grpc": "quiet:"}
"""protoc plugins with their options."""
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
BUF = "@bufbuild/buf@1.75.0"
BUF_SETTINGS = """
version: v2
modules:
  - path: ours
  - path: google
    lint:
      ignore: [google]
lint:
  use: [STANDARD, COMMENTS]
  except: [COMMENT_ONEOF]
  ignore_only:
    COMMENT_MESSAGE: [ours/live_avatar/pipeline]
    COMMENT_FIELD: [ours/live_avatar/pipeline]
    COMMENT_ENUM_VALUE: [ours/live_avatar/pipeline]
"""
BREAKING = '{"version": "v2", "breaking": {"use": ["FILE"], "ignore": ["google"]}}'
PUBLIC = ("--path", "ours/live_avatar/v1")
RELEASED = ROOT / "tools" / "released_api.binpb"
"""The public API of the last release, which may grow and not change."""


def sources(protos: Path) -> list[str]:
    """Every proto file of ours, by its path in the folder ``protos``.

    ``google/`` beside them is for those who load the folder without googleapis.
    """
    return sorted(path.relative_to(protos).as_posix() for path in (protos / "live_avatar").rglob("*.proto"))


def generate(protos: Path, into: Path) -> None:
    """Writes the modules and their type stubs below ``into``.

    Raises:
        subprocess.CalledProcessError: a proto file is wrong; protoc has said where.
    """
    # The plugins of mypy-protobuf lie beside this Python.
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    outputs = [f"--{plugin}_out={options}{into}" for plugin, options in PLUGINS.items()]
    command = [str(_generator()), "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{_googleapis()}", *outputs]
    subprocess.run([*command, *sources(protos)], check=True, env={"PATH": search})


def differences(protos: Path, root: Path) -> list[Path]:
    """Generated files below ``root`` that are missing, surplus or not what ``protos`` yields, by path."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(protos, fresh)
        wanted = _generated(fresh)
        there = _generated(root / "live_avatar", root)
        same = {name for name in wanted & there if filecmp.cmp(fresh / name, root / name, shallow=False)}
    return sorted((wanted | there) - same)


def findings(protos: Path, released: Path = RELEASED) -> str:
    """What buf finds in ``protos``, by itself and beside the last release; empty where it finds nothing.

    buf knows googleapis only from its own registry; here they come from the installed package.

    Raises:
        FileNotFoundError: npx is not here, or it cannot reach buf.
    """
    with _workspace(protos) as work:
        found = _buf(work, "lint") + _buf(work, "build", *PUBLIC, "-o", "now.binpb")
        return found or _buf(work, "breaking", "now.binpb", "--against", str(released), "--config", BREAKING)


def release(protos: Path, released: Path = RELEASED) -> None:
    """Keeps the protos as those of a release; raises FileNotFoundError as ``findings``."""
    with _workspace(protos) as work:
        report = _buf(work, "build", *PUBLIC, "-o", str(released))
    assert not report, report


@contextmanager
def _workspace(protos: Path) -> Iterator[Path]:
    """A folder as buf wants it, with our protos and those that they import."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(protos / "live_avatar", work / "ours" / "live_avatar")
        shutil.copytree(_googleapis() / "google" / "rpc", work / "google" / "google" / "rpc")
        (work / "buf.yaml").write_text(BUF_SETTINGS)
        yield work


def _buf(work: Path, *arguments: str) -> str:
    """What buf says in the folder ``work``."""
    npx = shutil.which("npx")
    if npx is None or subprocess.run([npx, "-y", BUF, "--version"], capture_output=True, check=False).returncode:
        raise FileNotFoundError("npx with buf")
    done = subprocess.run([npx, "-y", BUF, *arguments], cwd=work, capture_output=True, text=True, check=False)
    return done.stdout + (done.stderr if done.returncode else "")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Generates the code of protos/, or checks it.")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 where something differs")
    parser.add_argument("--release", action="store_true", help="keep the public API as that of a release")
    protos, arguments = ROOT / "protos", parser.parse_args(argv)
    if arguments.release:
        release(protos)
        return 0
    if not arguments.check:
        generate(protos, ROOT)
        return 0
    stale = differences(protos, ROOT)
    for path in stale:
        sys.stdout.write(f"{path}: not what protos/ yields; run make protos\n")
    try:
        found = findings(protos)
    except FileNotFoundError as error:
        sys.stdout.write(f"protos/ not linted: there is no {error}\n")
        found = ""
    sys.stdout.write(found)
    return 1 if stale or found else 0


def _generated(folder: Path, root: Path | None = None) -> set[Path]:
    return {path.relative_to(root or folder) for pattern in PATTERNS for path in folder.rglob(pattern)}


def _generator() -> Path:
    """The Python that has the protoc; made on first use, which needs a package index, and there from then on.

    Raises:
        subprocess.CalledProcessError: it cannot be made; uv has said why.
    """
    home = Path(sys.prefix) / "tools" / "-".join(PROTOC).replace("==", "-")
    python = home / "bin" / "python"
    if not home.is_dir():
        # Made beside its place, so that nobody finds half of it.
        with tempfile.TemporaryDirectory(dir=Path(sys.prefix)) as folder:
            fresh = Path(folder) / "made"
            uv = [sys.executable, "-m", "uv", "--quiet"]
            subprocess.run([*uv, "venv", "--relocatable", "--python", sys.executable, str(fresh)], check=True)
            subprocess.run([*uv, "pip", "install", "--python", str(fresh / "bin" / "python"), *PROTOC], check=True)
            home.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):  # somebody else was faster
                fresh.rename(home)
    return python


def _googleapis() -> Path:
    return Path(code_pb2.__file__).parents[2]


if __name__ == "__main__":
    sys.exit(main())
