"""The generated code is what protos/ yields, and importing it is free."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PROTOS = sorted(path.relative_to(ROOT / "protos") for path in (ROOT / "protos" / "live_avatar").rglob("*.proto"))
GENERATED = [".".join(path.with_suffix("").parts) + kind for path in PROTOS for kind in ("_pb2", "_pb2_grpc")]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protos_tool", ROOT / "tools" / "protos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout's protos and generated code, to change."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    for package in ("v1", "pipeline", "gateway"):
        shutil.copytree(ROOT / "live_avatar" / package, tmp_path / "live_avatar" / package)
    return tmp_path


def test_there_are_protos() -> None:
    assert {path.parts[0] for path in PROTOS} == {"live_avatar"}


def test_every_module_imports_without_a_warning_and_without_torch() -> None:
    loop = f"for name in {GENERATED}: importlib.import_module(name)"
    code = f"import importlib, sys\n{loop}\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_generated_code_is_current(tool: ModuleType, copy: Path) -> None:
    assert tool.differences(copy / "protos", copy) == []


@pytest.mark.parametrize("change", ["edit", "missing", "surplus"])
def test_drift_is_found(tool: ModuleType, copy: Path, change: str) -> None:
    module = Path("live_avatar/v1/media_pb2.py")
    if change == "edit":
        source = copy / "protos/live_avatar/v1/media.proto"
        source.write_text(source.read_text().replace("channel_count = 3", "channel_count = 4"))
    elif change == "missing":
        (copy / module).unlink()
    else:
        module = Path("live_avatar/v1/old_pb2.py")
        (copy / module).write_text("")
    assert module in tool.differences(copy / "protos", copy)


def test_runtime_that_is_allowed_is_not_older_than_the_generator() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = " ".join(project["optional-dependencies"]["client"])
    stub = (ROOT / "live_avatar/v1/avatar_service_pb2_grpc.py").read_text()
    message = (ROOT / "live_avatar/v1/avatar_service_pb2.py").read_text()
    needed = {
        "grpcio": re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", stub),
        "protobuf": re.search(r"Protobuf Python Version: ([\d.]+)", message),
    }
    for package, found in needed.items():
        assert found is not None
        lowest = re.search(rf"\b{package}>=([\d.]+)", client)
        assert lowest is not None
        assert version(lowest[1]) >= version(found[1]), f"{package}: {lowest[1]} is older than {found[1]}"


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


BREAKING = {
    "a type": ("uint32 channel_count = 3", "uint64 channel_count = 3"),
    "a number": ("uint32 channel_count = 3", "uint32 channel_count = 4"),
    "a name": ("uint32 channel_count = 3", "uint32 channels = 3"),
    "a value": ("    // Fragmented MP4 of H.264 and AAC.\n    ENCODING_FMP4 = 3;\n", ""),
}


@pytest.mark.parametrize("change", BREAKING)
def test_what_breaks_clients_of_the_last_release_is_found(tool: ModuleType, copy: Path, change: str) -> None:
    source = copy / "protos/live_avatar/v1/media.proto"
    before, after = BREAKING[change]
    assert before in source.read_text()
    source.write_text(source.read_text().replace(before, after))
    assert "media.proto" in found(tool, copy)


def test_the_api_may_grow(tool: ModuleType, copy: Path) -> None:
    source = copy / "protos/live_avatar/v1/media.proto"
    grown = "uint32 channel_count = 3;\n  // Something new.\n  uint32 bits = 4;"
    source.write_text(source.read_text().replace("uint32 channel_count = 3;", grown))
    assert found(tool, copy) == ""


def test_every_part_of_the_public_api_has_a_comment(tool: ModuleType, copy: Path) -> None:
    source = copy / "protos/live_avatar/v1/media.proto"
    source.write_text(source.read_text().replace("  // Only 1 is accepted.\n", ""))
    assert "channel_count" in found(tool, copy)


def found(tool: ModuleType, copy: Path) -> str:
    try:
        findings: str = tool.findings(copy / "protos")
    except FileNotFoundError:
        pytest.skip("there is no npx with buf")
    return findings
