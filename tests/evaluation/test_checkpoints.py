"""Weights of a training run beside those of a folder: they serve without having been exported by hand."""

from dataclasses import replace
from pathlib import Path

import torch

from evaluation.avatar import Avatar
from evaluation.checkpoints import exported
from evaluation.plan import Weights, rows_of
from evaluation.thresholds import UNDISTILLED
from live_avatar.trainer.training import train
from tests.trainer.micro import MICRO, flow_config, self_forcing_config, write_weights


def test_all_weights_of_a_run_take_the_place_of_those_of_the_folder(tmp_path: Path) -> None:
    config = flow_config(tmp_path)
    assert train(replace(config, steps=2)) == 0
    folder = write_weights(tmp_path / "weights")
    given = Avatar(MICRO, folder)
    with exported(config.output, folder) as mixed:
        trained = Avatar(MICRO, mixed)
    assert trained.digest != given.digest and not trained.has_adapter
    assert not torch.equal(trained.dit.head.linear.weight, given.dit.head.linear.weight)
    assert all(
        torch.equal(one, other) for one, other in zip(trained.vae.parameters(), given.vae.parameters(), strict=True)
    )


def test_an_adapter_of_a_run_stands_on_the_folder(tmp_path: Path) -> None:
    config = self_forcing_config(tmp_path)
    assert config.weights is not None
    assert train(replace(config, steps=2)) == 0
    with exported(config.output, config.weights) as mixed:
        rows, missing = rows_of(MICRO, Weights(given=mixed))
        assert UNDISTILLED in {row.name for row in rows} and UNDISTILLED not in missing
        digests = {row.name: row.digest for row in rows}
        assert digests[UNDISTILLED] != digests["4 steps"]
