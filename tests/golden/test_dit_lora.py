"""The denoiser with a merged adapter, and the same denoiser with the adapter beside it, equal the reference."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from live_avatar.config import LoRAConfig
from live_avatar.model import dit, lora
from live_avatar.model.dit import CausalDiT
from tests.model.attached_adapter import adapter_state

from .conftest import Golden
from .reference_models import dit_from
from .test_dit_causal import Stream

pytestmark = pytest.mark.golden_kind("lora")


def _causal_golden(golden: Golden) -> Golden:
    """The streaming golden whose inputs this adapter was run on: the one with the same base weights."""
    for path in sorted(golden.folder.glob("dit_causal*.json")):
        if json.loads(path.read_text())["config"]["weights"] == golden.meta["config"]["base_weights"]:
            return Golden(path.stem, golden.folder)
    raise AssertionError(f"no dit_causal golden beside {golden.name} has its weights")


def _adapter(golden: Golden) -> tuple[dict[str, Tensor], LoRAConfig]:
    tensors = {key.removeprefix("lora/"): t for key, t in golden.tensors.items() if key.startswith("lora/")}
    config = golden.meta["config"]
    targets = tuple(config["target_modules"].split(","))
    return tensors, LoRAConfig(rank=config["rank"], alpha=config["alpha"], targets=targets)


def _velocity(golden: Golden, adapt: Callable[[CausalDiT], None]) -> Tensor:
    causal = _causal_golden(golden)
    stream = Stream(causal)
    adapt(stream.model)
    stream.text = stream.model.embed_text(causal.tensors["in/context"][None])
    stream.prefill()
    return stream.block("block_0", causal.meta["config"]["relative_dist"][0], causal.tensors["in/timestep"])


@torch.no_grad()
def test_merged(golden: Golden) -> None:
    adapter, config = _adapter(golden)

    def merge(model: CausalDiT) -> None:
        lora.merge(model, dit.public_names(model.config), adapter, config)

    golden.close(_velocity(golden, merge), "forward/velocity_block0")


@torch.no_grad()
def test_beside(golden: Golden) -> None:
    """The twin: what training runs, base and adapter apart, gives what serving runs."""
    adapter, config = _adapter(golden)

    def attach(model: CausalDiT) -> None:
        names = dit.public_names(model.config)
        lora.attach(model, names, config)
        given = lora.normalise(adapter)
        for key, tensor in adapter_state(model, names, config).items():
            tensor.copy_(given[key])

    golden.close(_velocity(golden, attach), "forward/velocity_block0")


def test_base_is_the_base_of_the_causal_golden(golden: Golden) -> None:
    causal = _causal_golden(golden)
    config = causal.meta["config"]
    model, _ = dit_from(causal, config["model"], golden.meta["config"]["base_weights"], config["motion_frames"])
    assert set(golden.meta["target_module_names"]) == {key.rsplit(".lora_", 1)[0] for key in _adapter(golden)[0]}
    assert model.config.num_layers == config["model"]["num_layers"]
