"""Checkpoints to weights that serve: loadable, equal to what was trained, and never on the wrong base."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from live_avatar.cli.main import app
from live_avatar.model import components
from live_avatar.model.dit import CausalDiT
from live_avatar.model.networks import open_networks
from live_avatar.model.weight_files import MANIFEST, WeightsError
from live_avatar.trainer.adapters import STUDENT
from live_avatar.trainer.distributed import Processes
from live_avatar.trainer.export import export, write_text_encoder
from live_avatar.trainer.phases import build
from live_avatar.trainer.presets import ExportConfig, TrainingConfig
from live_avatar.trainer.state import CheckpointError
from live_avatar.trainer.training import Stop, run, train
from tests.trainer.micro import MICRO, flow_config, self_forcing_config, write_weights

ALONE = Processes(0, 1, torch.device("cpu"))


def trained(config: TrainingConfig) -> TrainingConfig:
    """``config`` after a step and a half."""
    assert train(replace(config, steps=2)) == 0
    return config


def checked(preset: str, folder: Path) -> str:
    """What ``live-avatar weights check`` says of a folder it must accept."""
    result = CliRunner().invoke(app, ["weights", "check", str(folder), "--preset", preset])
    assert result.exit_code == 0, result.output
    return result.output


def test_every_weight_of_a_run_serves(tmp_path: Path) -> None:
    config = trained(flow_config(tmp_path))
    folder = write_weights(tmp_path / "served")
    shutil.rmtree(folder / "dit")
    export(ExportConfig(checkpoint=config.output, output=folder, average=False))
    assert "dit: loadable" in checked(config.preset, folder)
    phase, _ = build(replace(config, steps=2), ALONE)
    assert run(phase, replace(config, steps=2), ALONE, Stop()) == 0
    for name in ("dit", "audio"):
        served = open_networks(MICRO, folder).load(name).state_dict()
        ours = getattr(phase.network, name).state_dict()
        assert all(torch.equal(served[key], ours[key]) for key in ours)


def test_an_adapter_merged_into_its_base_computes_what_was_trained(tmp_path: Path) -> None:
    config = trained(self_forcing_config(tmp_path, learning_rate=0.05))
    assert config.weights is not None
    export(ExportConfig(checkpoint=config.output, output=config.weights, average=False))
    assert "adapter: loadable" in checked(config.preset, config.weights)
    manifest = json.loads((config.weights / components.ADAPTER / MANIFEST).read_text())
    assert manifest["config"]["rank"] == MICRO.lora.rank
    phase, digest = build(replace(config, steps=2), ALONE)
    assert manifest["config"]["base_digest"] == digest
    assert run(phase, replace(config, steps=2), ALONE, Stop()) == 0
    assert phase.roles is not None
    merged = cast(CausalDiT, open_networks(MICRO, config.weights).load("dit"))
    plain = cast(CausalDiT, components.load(MICRO, "dit", config.weights))
    states = torch.randn(1, 4, MICRO.dit.text_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), phase.roles.using(STUDENT):
        ours = phase.network.dit.embed_text(states)
    for layer, served, before in zip(
        ours.layers, merged.embed_text(states).layers, plain.embed_text(states).layers, strict=True
    ):
        torch.testing.assert_close(served, layer, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(before[0], layer[0], rtol=1e-3)


def test_an_adapter_of_half_the_size_holds_the_same_numbers_rounded(tmp_path: Path) -> None:
    config = trained(self_forcing_config(tmp_path))
    assert config.weights is not None
    export(ExportConfig(checkpoint=config.output, output=tmp_path / "whole"))
    export(ExportConfig(checkpoint=config.output, output=config.weights, dtype="bfloat16"))
    assert "adapter: loadable" in checked(config.preset, config.weights)
    (whole,), (half,) = (
        (folder / components.ADAPTER).glob("*.safetensors") for folder in (tmp_path / "whole", config.weights)
    )
    rounded, exact = load_file(half), load_file(whole)
    assert rounded.keys() == exact.keys()
    assert all(torch.equal(rounded[key], exact[key].bfloat16()) for key in exact)


def test_an_adapter_goes_on_from_where_it_was_exported(tmp_path: Path) -> None:
    config = trained(self_forcing_config(tmp_path, learning_rate=0.05))
    assert config.weights is not None
    export(ExportConfig(checkpoint=config.output, output=config.weights, average=False))
    adapter = config.weights / components.ADAPTER
    phase, _ = build(replace(config, adapter=adapter), ALONE)
    exported = components.open_converted(MICRO, components.ADAPTER, config.weights)
    assert len(exported.entries) == len(phase.optimizers[0].parameters)
    assert any(p.abs().max() > 0 for name, p in phase.optimizers[0].parameters.items() if name.endswith("lora_B"))


def test_an_adapter_is_refused_on_another_base(tmp_path: Path) -> None:
    config = trained(self_forcing_config(tmp_path))
    assert config.weights is not None
    export(ExportConfig(checkpoint=config.output, output=config.weights))
    other = write_weights(tmp_path / "other", replace(MICRO, name="OTHER"))
    with pytest.raises(WeightsError, match="preset OTHER"):
        export(ExportConfig(checkpoint=config.output, output=other))
    other = tmp_path / "same name"
    run_config = trained(flow_config(tmp_path, output=tmp_path / "base run"))
    export(ExportConfig(checkpoint=run_config.output, output=other))
    with pytest.raises(WeightsError, match="the adapter stands on"):
        export(ExportConfig(checkpoint=config.output, output=other))
    assert not (other / components.ADAPTER).exists()
    for file_set in ("vae", "text", "speech"):
        shutil.copytree(config.weights / file_set, other / file_set)
    with pytest.raises(WeightsError, match="trained on a base of digest"):
        build(replace(config, weights=other, adapter=config.weights / components.ADAPTER), ALONE)
    shutil.copytree(config.weights / components.ADAPTER, other / components.ADAPTER)
    with pytest.raises(WeightsError, match="trained on a base of digest"):
        open_networks(MICRO, other).load("dit")


def test_nothing_is_overwritten_and_nothing_that_is_no_run_exported(tmp_path: Path) -> None:
    config = trained(flow_config(tmp_path))
    export(ExportConfig(checkpoint=config.output, output=tmp_path / "served"))
    with pytest.raises(WeightsError, match="already holds weights"):
        export(ExportConfig(checkpoint=config.output, output=tmp_path / "served"))
    with pytest.raises(CheckpointError, match="not a training run"):
        export(ExportConfig(checkpoint=tmp_path, output=tmp_path / "nothing"))


def test_the_random_text_encoder_is_the_one_that_serves_without_weights(tmp_path: Path) -> None:
    write_text_encoder(MICRO, tmp_path)
    stored = components.load(MICRO, "text", tmp_path).state_dict()
    random = open_networks(MICRO, None).load("text").state_dict()
    assert all(torch.equal(stored[key], random[key]) for key in random)
