"""What the tests of the whole pipeline share: presets as files, and one pipeline that is started once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from live_avatar.config import preset_json
from tests.golden.conftest import pytest_generate_tests

from .processes import Processes, chain_programs, decoder_program, free_port, processes
from .system import SMALL

__all__ = ["pytest_generate_tests"]


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
