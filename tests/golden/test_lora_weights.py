"""The adapter of the golden, merged into its base weights: every weight the reference lists."""

import json

import pytest
import torch
from torch import Tensor

from live_avatar.config import LoRAConfig, dit_config_from_public
from live_avatar.model import checkpoint, dit, lora

from .conftest import Golden


def adapter_of(golden: Golden) -> tuple[dict[str, Tensor], LoRAConfig]:
    """Adapter tensors under their file keys, and its configuration."""
    config = golden.meta["config"]
    tensors = {key.removeprefix("lora/"): value for key, value in golden.tensors.items() if key.startswith("lora/")}
    targets = tuple(config["target_modules"].split(","))
    return tensors, LoRAConfig(rank=config["rank"], alpha=config["alpha"], targets=targets)


def base_model(golden: Golden) -> tuple[dit.CausalDiT, dict[str, str]]:
    """The denoiser with the golden's base weights, and its public names."""
    file = golden.meta["config"]["base_weights"]
    weights = golden.weights(file)
    public = json.loads((golden.folder / file).with_suffix(".json").read_text())["config"]
    config = dit_config_from_public(public, audio_states=weights["casual_audio_encoder.weights"].shape[1])
    with torch.device("meta"):
        model = dit.CausalDiT(config)
    names = dit.public_names(config)
    checkpoint.assign(model, names, {key: weights[key] for key in names})
    return model, names


@pytest.mark.golden_kind("lora")
def test_targets_are_the_listed_layers(golden: Golden) -> None:
    model, names = base_model(golden)
    _, config = adapter_of(golden)
    assert sorted(lora.target_layers(model, names, config)) == sorted(golden.meta["target_module_names"])


@pytest.mark.golden_kind("lora")
@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("default", [".default.", "."])
def test_every_listed_weight_is_merged(golden: Golden, prefix: str, default: str) -> None:
    model, names = base_model(golden)
    tensors, config = adapter_of(golden)
    spelled = {prefix + key.replace(".default.", default): value for key, value in tensors.items()}
    lora.merge(model, names, spelled, config)
    merged = checkpoint.public_state(model, names)
    listed = [name for name in golden.tensors if name.startswith("merged/")]
    assert listed
    for name in listed:
        golden.close(merged[name.removeprefix("merged/")], name)


@pytest.mark.golden_kind("lora")
def test_only_target_weights_change(golden: Golden) -> None:
    model, names = base_model(golden)
    tensors, config = adapter_of(golden)
    before = {key: tensor.clone() for key, tensor in checkpoint.public_state(model, names).items()}
    lora.merge(model, names, tensors, config)
    after = checkpoint.public_state(model, names)
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed == {f"{layer}.weight" for layer in golden.meta["target_module_names"]}
