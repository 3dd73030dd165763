"""The tensors of an adapter that is attached to a model."""

from collections.abc import Mapping

from torch import Tensor, nn

from live_avatar.config import LoRAConfig
from live_avatar.model.lora import target_layers


def adapter_state(model: nn.Module, names: Mapping[str, str], config: LoRAConfig) -> dict[str, Tensor]:
    """The adapter of a model after ``attach``, by public key, not copied."""
    state: dict[str, Tensor] = {}
    for layer, ours in target_layers(model, names, config).items():
        module = model.get_submodule(ours)
        state[f"{layer}.lora_A.default.weight"] = module.get_parameter("lora_A").detach()
        state[f"{layer}.lora_B.default.weight"] = module.get_parameter("lora_B").detach()
    return state
