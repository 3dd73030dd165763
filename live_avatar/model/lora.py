"""Low-rank adapters: ``W + scale * B A``, as a layer to train and as a merge to serve (spec 6).

Which layers carry an adapter is asked in public names, because adapter files speak those; ``names`` maps public
keys to ours.  Knows no network by name and no file format.

Letters: R rank, I input features, O output features.
"""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from live_avatar.config import LoRAConfig
from live_avatar.model.checkpoint import tensor_difference
from live_avatar.model.weight_files import Shape, WeightsError

_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight$")


class LoRALinear(nn.Linear):
    """A frozen linear layer with a trainable low-rank part: ``W x + b + scale * B (A x)``.

    ``lora_A`` is [R, I] and ``lora_B`` [O, R]; B begins at zero, so that a new adapter changes nothing.  Weight and
    bias keep their names, so that checkpoints of the plain layer fit.
    """

    def __init__(self, linear: nn.Linear, config: LoRAConfig) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.scale = config.scale
        self.lora_A = nn.Parameter(linear.weight.new_empty(config.rank, linear.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, config.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., I] to [..., O]."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)


def target_layers(model: nn.Module, names: Mapping[str, str], config: LoRAConfig) -> dict[str, str]:
    """The linear layers that carry an adapter: public layer name to ours, in the order of ``names``."""
    layers: dict[str, str] = {}
    for public, ours in names.items():
        layer = public.removesuffix(".weight")
        is_target = any(f".{layer}".endswith(f".{target}") for target in config.targets)
        if layer != public and is_target and isinstance(model.get_submodule(ours.removesuffix(".weight")), nn.Linear):
            layers[layer] = ours.removesuffix(".weight")
    return layers


def adapter_shapes(model: nn.Module, names: Mapping[str, str], config: LoRAConfig) -> dict[str, Shape]:
    """Every key of an adapter file for ``model``, in the spelling of the public one, with its shape."""
    shapes: dict[str, Shape] = {}
    for layer, ours in target_layers(model, names, config).items():
        out_features, in_features = model.get_submodule(ours).get_parameter("weight").shape
        shapes[_spell(layer, "A")] = (config.rank, in_features)
        shapes[_spell(layer, "B")] = (out_features, config.rank)
    return shapes


def attach(model: nn.Module, names: Mapping[str, str], config: LoRAConfig) -> None:
    """Freezes ``model`` and puts a trainable adapter on every target layer."""
    model.requires_grad_(False)
    for ours in target_layers(model, names, config).values():
        parent, _, child = ours.rpartition(".")
        layer = model.get_submodule(ours)
        assert isinstance(layer, nn.Linear) and not isinstance(layer, LoRALinear), f"{ours} has an adapter already"
        setattr(model.get_submodule(parent), child, LoRALinear(layer, config))


def normalise_key(key: str) -> str:
    """The public spelling of an adapter key: no ``base_model.model.`` in front, ``.default`` before ``.weight``.

    Raises:
        WeightsError: ``key`` is not that of an adapter tensor.
    """
    match = _KEY.match(key)
    if match is None:
        raise WeightsError(f"adapter: {key} is not an adapter tensor (<layer>.lora_A.default.weight or lora_B)")
    return _spell(match["layer"], match["half"])


def normalise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under the public spelling of their keys.

    Raises:
        WeightsError: a key that is not an adapter's, or two spellings of one.
    """
    spelled: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        public = normalise_key(key)
        if public in spelled:
            raise WeightsError(f"adapter: {public} is there twice, the second time as {key}")
        spelled[public] = tensor
    return spelled


@torch.no_grad()
def merge(
    model: nn.Module,
    names: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    config: LoRAConfig,
    source: str = "adapter",
) -> None:
    """Adds the adapter ``tensors`` (any spelling) to the weights of ``model``, in place.

    The product and the sum are taken in float32, then rounded to the type of the weight; biases stay.

    Raises:
        WeightsError: the tensors are not exactly those of ``adapter_shapes``; the model is then as it was.
    """
    adapter = normalise(tensors)
    tensor_difference(adapter, adapter_shapes(model, names, config), source).raise_if_any()
    for layer, ours in target_layers(model, names, config).items():
        weight = model.get_submodule(ours).get_parameter("weight")
        low, high = (adapter[_spell(layer, half)].to(weight.device, torch.float32) for half in "AB")
        weight.copy_(weight.float() + config.scale * (high @ low))


def _spell(layer: str, half: str) -> str:
    return f"{layer}.lora_{half}.default.weight"
