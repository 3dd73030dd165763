"""Checkpoints: a run that was killed goes on as if it had not been, bit for bit; damage is named."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from live_avatar.trainer.distributed import Processes
from live_avatar.trainer.phases import build
from live_avatar.trainer.presets import TrainingConfig
from live_avatar.trainer.state import CheckpointError, Checkpoints, newest, read_all
from live_avatar.trainer.training import FINISHED, INTERRUPTED, METRICS, Stop, run, stoppable, train
from tests.trainer.micro import flow_config, self_forcing_config
from tests.trainer.runs import finish, metrics, start

ALONE = Processes(0, 1, torch.device("cpu"))
WAIT_S = 200


def same_end(some: TrainingConfig, other: TrainingConfig) -> None:
    """Asserts equal metrics and equal bits of everything that a checkpoint keeps."""
    ends = [read_all(newest(config.output / "checkpoints")) for config in (some, other)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    curves = [metrics(config.output) for config in (some, other)]
    for step, numbers in curves[0].items():
        assert {**numbers, "seconds": 0} == {**curves[1][step], "seconds": 0}


def wait_for_step(folder: Path, step: int) -> None:
    until = time.monotonic() + WAIT_S
    while not (folder / METRICS).exists() or step not in metrics(folder):
        assert time.monotonic() < until, f"step {step} never came"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = flow_config(tmp_path, steps=40, save_every=3)
    killed, whole = replace(config, output=tmp_path / "killed"), replace(config, output=tmp_path / "whole")
    process = start("tiny", killed)
    wait_for_step(killed.output, 7)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert max(metrics(killed.output)) < config.steps
    finish("tiny", killed)
    finish("tiny", whole)
    same_end(killed, whole)


@pytest.mark.parametrize("kind", ["flow matching", "self-forcing"])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    config: TrainingConfig = flow_config(tmp_path) if kind == "flow matching" else self_forcing_config(tmp_path)
    stopped, whole = replace(config, output=tmp_path / "stopped"), replace(config, output=tmp_path / "whole")
    assert train(whole) == FINISHED
    phase, _ = build(stopped, ALONE)
    stopped.output.mkdir()
    assert run(phase, stopped, ALONE, Stop(requested=True)) == INTERRUPTED
    assert newest(stopped.output / "checkpoints").name == "step-00000001"
    assert train(stopped) == FINISHED
    same_end(stopped, whole)


def test_sigterm_asks_and_does_not_kill() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable() as stop:
        asked_before = stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert (asked_before, stop.requested) == (False, True)
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_the_newest_checkpoints_are_kept_and_half_written_ones_ignored(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, keep=2)
    state = {"a": torch.arange(4.0)}
    for step in (1, 2, 3):
        state["a"] += 1
        checkpoints.save(step, state)
    (tmp_path / "step-00000009.partial").mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002",
        "step-00000003",
        "step-00000009.partial",
    ]
    latest = checkpoints.latest()
    assert latest is not None
    loaded = {"a": torch.zeros(4)}
    assert checkpoints.load(latest, loaded) == 3
    assert torch.equal(loaded["a"], torch.arange(4.0) + 3)


def test_damaged_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ALONE, keep=2)
    path = checkpoints.save(5, {"a": torch.arange(400.0)})
    with pytest.raises(CheckpointError, match=r"step-00000005.*cannot be loaded"):
        checkpoints.load(path, {"b": torch.zeros(4)})
    (part,) = path.glob("*.distcp")
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="step-00000005"):
        checkpoints.load(path, {"a": torch.zeros(400)})
    (path / ".metadata").unlink()
    with pytest.raises(CheckpointError, match="step-00000005"):
        read_all(path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        newest(tmp_path / "elsewhere")
