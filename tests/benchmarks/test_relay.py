"""The comparison of blocks that a gateway passes on with those that it serves."""

import math
from pathlib import Path

import pytest

from benchmarks import relay
from benchmarks.pipeline import Emulation
from live_avatar.launcher.layout import parse_layout


@pytest.mark.slow
def test_blocks_that_are_passed_on_cost_a_part_of_those_that_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "TURNS", 1)
    monkeypatch.setattr(relay, "BLOCKS", 30)
    emulation = Emulation(layout=parse_layout("1x1"), step_ms=5, decode_ms=2)
    numbers = relay.measured(emulation, tmp_path)
    assert set(numbers) == {"relay_served_ms", "relay_held_ms", "relay_passed_on_ms", "relay_cpu_ratio"}
    assert all(math.isfinite(number) and number > 0 for number in numbers.values())
    assert numbers["relay_cpu_ratio"] < 1
