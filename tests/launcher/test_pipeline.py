"""A pipeline as processes on this machine.  What it makes is tested with the commands, in tests/cli."""

import os
from pathlib import Path

import pytest

from live_avatar.launcher.child import LaunchError
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan


def test_a_service_that_cannot_start_is_reported_and_nothing_is_left(tmp_path: Path) -> None:
    reported: list[str] = []
    plan = Plan(layout=parse_layout("1x4"), weights=tmp_path / "absent", logs=tmp_path / "logs")
    pipeline = LocalPipeline(plan, reported.append)
    with pytest.raises(LaunchError, match=r"vae-decoder ended with code 1; .*absent"), pipeline:
        raise AssertionError("there are no weights to start with")
    assert any("absent" in line for line in reported)
    assert not any(child.alive for child in pipeline.services.values())
    assert set(os.listdir(plan.logs)) == {f"{name}.log" for name in pipeline.services}
