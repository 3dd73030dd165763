"""What every section of the drills is given."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drills.cluster import ClusterPlan
from live_avatar.config import Preset, preset_json

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a section leaves files, what it plays, and how much of it."""

    out: Path
    preset: Preset
    report: Callable[[str], None]
    """Gets a line about each step."""
    seed: int = 0
    """Of what is random."""
    gateways: int = 2
    blocks: int = 84
    """Of a session's speech: 40 s."""
    kills: int = 100
    cuts: int = 50
    sessions: int = 200
    """Of the round robin."""

    def plan(self, section: str, *gateway_flags: str, with_balancer: bool = True) -> ClusterPlan:
        """A cluster whose logs lie in the section's own folder."""
        logs = self.out / "logs" / "drills" / section
        logs.mkdir(parents=True, exist_ok=True)
        file = logs / "preset.json"
        file.write_text(preset_json(self.preset))
        return ClusterPlan(
            logs=logs,
            preset=str(file),
            gateways=self.gateways,
            with_balancer=with_balancer,
            gateway_flags=gateway_flags,
        )
