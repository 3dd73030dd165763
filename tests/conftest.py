"""Options of the whole suite."""

from pathlib import Path

import pytest

GOLDENS = Path(__file__).parent / "golden" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of this suite."""
    parser.addoption("--goldens", type=Path, default=GOLDENS, help="folder of goldens (default: the committed copy)")
    parser.addoption("--endurance-seconds", type=int, default=300, help="media of the endurance test (default: 300)")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker that names a test's kind of golden."""
    config.addinivalue_line("markers", "golden_kind(kind): run once for every golden of that kind")
