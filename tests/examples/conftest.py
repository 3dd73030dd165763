"""A real pipeline with its gateway for all examples."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from live_avatar.cli.inputs import TRAINED
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a gateway that serves TINY."""
    plan = Plan(layout=parse_layout("1x4"), weights=TRAINED, logs=tmp_path_factory.mktemp("logs"))
    with LocalPipeline(plan, report=lambda line: None) as pipeline:
        yield pipeline.gateway
