"""A short storm against real services, and the arithmetic of its result.

How long honest calls take is told by ``make abuse`` on a machine that does nothing else; here it is only said that they
are served, that nobody's stream ends, and that nothing waits for what an attacker left behind.
"""

from pathlib import Path

import pytest

from live_avatar.config import preset_json
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import Plan
from live_avatar.services.gateway.access.api_key import ApiKey
from tests.abuse.callers import GuardedPipeline
from tests.abuse.measure import Phase, evaluated, run
from tests.abuse.storms import STORMS
from tests.system.harness.running import TRIVIAL

WORST_MS = 15_000
"""One caller could once keep all others waiting for more than half a minute."""


@pytest.mark.alone
def test_honest_callers_are_served_in_every_storm(tmp_path: Path) -> None:
    preset = tmp_path / "trivial.json"
    preset.write_text(preset_json(TRIVIAL))
    key = ApiKey.generate().text
    plan = Plan(layout=parse_layout("1x4"), preset=str(preset), logs=tmp_path, api_key=key)
    with GuardedPipeline(plan, lambda line: None) as system:
        result = run(system, quiet_s=2, storm_s=1)
    assert set(result["storms"]) == set(STORMS)
    assert result["storms_without_effect"] == []
    for name, storm in result["storms"].items():
        assert storm["create_worst_ms"] < WORST_MS, name
    assert result["honest_creates_failed"] == 0
    assert result["neighbour_ended"] == ""


def test_the_worst_storm_counts() -> None:
    phases = [Phase("quiet", 0, 10), Phase("rain", 10, 20, 5), Phase("hail", 20, 30, 7), Phase("quiet", 30, 40)]
    creates = [(1, 0.1), (2, 0.2), (35, 0.3), (11, 0.2), (12, 0.2), (21, 0.5), (22, 0.7), (23, -1)]
    result = evaluated(phases, creates, stalls=[5, 21, 22, 50])
    assert result["honest_create_quiet_ms"] == pytest.approx(200)
    assert result["honest_create_ratio"] == pytest.approx(3)
    assert result["honest_create_extra_ms"] == pytest.approx(400)
    assert (result["honest_creates_failed"], result["neighbour_late_blocks"]) == (1, 2)
    assert result["neighbour_late_blocks_quiet"] == 1
    assert [storm["honest"] for storm in result["storms"].values()] == [True, False]
    assert not result["honest"]


def test_a_little_more_is_honest_where_quiet_creates_are_quick() -> None:
    phases = [Phase("quiet", 0, 10), Phase("rain", 10, 20, 5)]
    result = evaluated(phases, [(1, 0.01), (11, 0.25)], stalls=[])
    assert result["honest_create_ratio"] == pytest.approx(25)
    assert result["honest"]
