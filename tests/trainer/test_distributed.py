"""Two processes against one: the same losses, and checkpoints that fit both."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from live_avatar.trainer.presets import TrainingConfig
from live_avatar.trainer.state import newest, read_all
from tests.trainer.micro import flow_config, self_forcing_config
from tests.trainer.runs import finish, metrics

TOLERANCE = 1e-5
CONFIGS: dict[str, Any] = {"tiny": flow_config, "tiny_self_forcing": self_forcing_config}


def curve(config: TrainingConfig) -> list[dict[str, float]]:
    """Losses and gradient norms of every step."""
    by_step = metrics(config.output)
    assert sorted(by_step) == list(range(1, config.steps + 1))
    return [{key: value for key, value in by_step[step].items() if key != "seconds"} for step in sorted(by_step)]


def assert_near(some: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one == pytest.approx(other, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("command", CONFIGS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "recomputing"])
def test_two_processes_learn_what_one_learns(tmp_path: Path, command: str, checkpointing: bool) -> None:
    config = CONFIGS[command](tmp_path, gradient_checkpointing=checkpointing)
    alone, together = replace(config, output=tmp_path / "one"), replace(config, output=tmp_path / "two")
    finish(command, alone)
    finish(command, together, ranks=2)
    assert_near(curve(together), curve(alone))
    one, two = (read_all(newest(run.output / "checkpoints")) for run in (alone, together))
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    config = flow_config(tmp_path)
    for ranks, steps in ((2, 2), (1, 4), (2, 6)):
        finish("tiny", replace(config, steps=steps, final_rate=1.0), ranks)
    reference = replace(config, output=tmp_path / "reference", final_rate=1.0)
    finish("tiny", reference)
    assert_near(curve(config), curve(reference))
