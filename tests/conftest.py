"""Options of the whole suite."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from live_avatar.proxies import proxies

GOLDENS = Path(__file__).parent / "golden" / "data"

# The same examples on every machine, however slow: a run of the suite says something about the tree, not about luck.
# `--hypothesis-profile=default` searches at random again.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


# Everything that the tests talk to is on this machine; what they use of other libraries would go through a proxy.
for proxy in tuple(proxies()):
    del os.environ[proxy.variable]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of this suite."""
    parser.addoption("--goldens", type=Path, default=GOLDENS, help="folder of goldens (default: the committed copy)")
    parser.addoption("--endurance-seconds", type=int, default=300, help="media of the endurance test (default: 300)")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker that names a test's kind of golden."""
    config.addinivalue_line("markers", "golden_kind(kind): run once for every golden of that kind")
