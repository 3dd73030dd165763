"""The client's installation at both ends of what it allows, and beside other packages of the field.

The gateway runs here; each environment has the oldest or the newest packages and makes a call with them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fake_gateway import fake_gateway, serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
UV_S = 240
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""The environment, without the way to this folder."""
NO_INDEX = ("error sending request", "failed to fetch", "dns error", "network", "connection")
CALL = """
import asyncio, sys, warnings
warnings.simplefilter("error")
import google.protobuf, grpc
from live_avatar.client import AvatarClient, AvatarError, SessionOptions

async def main():
    async with AvatarClient(sys.argv[1]) as client:
        info = await client.server_info()
        session = await client.create_session(b"an image", SessionOptions(sample_rate_hz=16000))
        async with session.stream() as stream:
            await stream.send_audio(bytes(32000))
            await stream.end()
            units = [result async for result in stream]
        await session.close()
        print(info.preset, len(units) > 0, "torch" in sys.modules)

asyncio.run(main())
"""


def uv(*arguments: str) -> str:
    """What uv says; skips the test where no package index answers."""
    command = [sys.executable, "-m", "uv", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=UV_S, check=False, env=OUTSIDE, cwd=tempfile.gettempdir()
    )
    if done.returncode and any(word in done.stderr.lower() for word in NO_INDEX):
        pytest.skip(f"no package index answers: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def address() -> Iterator[str]:
    with serving(fake_gateway()) as address:
        yield address


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What installs the client from a copy of the sources: a build leaves folders behind."""
    copy = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "live_avatar", copy / "live_avatar", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return f"live-avatar[client] @ {copy.as_uri()}"


@pytest.mark.parametrize("end", ["lowest-direct", "highest"])
def test_a_call_with_the_oldest_and_the_newest_packages(tmp_path: Path, address: str, client: str, end: str) -> None:
    python = tmp_path / "environment" / "bin" / "python"
    uv("--quiet", "venv", "--python", sys.executable, str(tmp_path / "environment"))
    uv(
        "--quiet",
        "pip",
        "install",
        "--python",
        str(python),
        "--resolution",
        end,
        f"live-avatar[client] @ {ROOT.as_uri()}",
    )
    done = subprocess.run(
        [str(python), "-c", CALL, address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=OUTSIDE,
    )
    assert done.stdout.split() == ["TINY", "True", "False"], done.stderr
    assert "\ntorch==" not in uv("pip", "freeze", "--python", str(python))


def test_a_wheel_installs_one_name_and_its_types(tmp_path: Path, client: str) -> None:
    environment = tmp_path / "environment"
    python = environment / "bin" / "python"
    uv("--quiet", "venv", "--python", sys.executable, str(environment))
    uv("--quiet", "pip", "install", "--python", str(python), client)
    packages = next(environment.glob("lib/python*/site-packages"))
    record = next(packages.glob("live_avatar-*.dist-info/RECORD")).read_text().splitlines()
    assert {line.split("/")[0] for line in record if ".dist-info" not in line and "/bin/" not in line} == {
        "live_avatar"
    }
    assert (packages / "live_avatar" / "services" / "gateway" / "__main__.py").is_file()
    assert (packages / "live_avatar" / "trainer" / "__main__.py").is_file()
    programs = sorted(str(path) for path in (ROOT / "examples" / "python").glob("*.py"))
    assert programs
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--python-executable",
            str(python),
            "--cache-dir=/dev/null",
            *programs,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env=OUTSIDE,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("other", ["pipecat-ai==1.14.0", "livekit-agents"])
def test_the_client_resolves_beside(tmp_path: Path, client: str, other: str) -> None:
    wanted = tmp_path / "wanted.in"
    wanted.write_text(f"{client}\n{other}\n")
    found = uv("pip", "compile", "--quiet", "--no-header", "--python-version", "3.11", str(wanted))
    assert "protobuf==" in found
    assert "\ntorch==" not in found
