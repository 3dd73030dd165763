"""What the tests of whole systems share, each started once: Redis, all services with a gateway, the services alone."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from live_avatar.config import preset_json
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan
from tests.golden.conftest import pytest_generate_tests

from .harness.processes import HOST, Processes, chain_programs, decoder_program, free_port, processes
from .harness.reference import SMALL
from .harness.running import QUICK, revive

__all__ = ["pytest_generate_tests"]

START_S = 30.0


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Redis; a path of one digit chooses one of its databases."""
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.02)
        yield f"redis://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(START_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@pytest.fixture(scope="session")
def started_system(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """Two stages of two steps with small networks."""
    folder = tmp_path_factory.mktemp("system")
    preset = folder / "quick.json"
    preset.write_text(preset_json(QUICK))
    layout = parse_layout("2x2")
    plan = Plan(layout=layout, preset=str(preset), redis=f"{redis_server}/0", logs=folder / "logs")
    with LocalPipeline(plan, lambda line: None) as running:
        yield running


@pytest.fixture
def system(started_system: LocalPipeline) -> LocalPipeline:
    """``started_system`` with all its services alive and ready, whatever the test before did to it."""
    revive(started_system)
    return started_system


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small preset, as services read it."""
    file = tmp_path_factory.mktemp("preset") / "small.json"
    file.write_text(preset_json(SMALL))
    return file


@pytest.fixture(scope="session")
def started_pipeline(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A whole pipeline of the small preset: two stages of two steps, and a real decoder."""
    model = ("--preset", str(small_file))
    end = free_port()
    with processes(tmp_path_factory.mktemp("logs")) as running:
        running.start({**chain_programs(model, (range(2), range(2, 4)), end), decoder_program(model): end})
        yield running


@pytest.fixture
def pipeline(started_pipeline: Processes) -> Processes:
    """``started_pipeline`` with all its services alive, whatever the test before did to it."""
    started_pipeline.revive()
    return started_pipeline
