"""Adapters that share one frozen base: teacher, student and fake score are the same weights plus little.

``share`` puts one adapter per role on every target layer of a denoiser; inside ``Roles.using`` that role computes
with its own, or with the bare base where it has none.  Layers keep their names, so checkpoints of the base fit.

Letters: R rank, I input features, O output features.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from live_avatar.config import LoRAConfig
from live_avatar.model.checkpoint import tensor_difference
from live_avatar.model.dit import CausalDiT, public_names
from live_avatar.model.lora import adapter_shapes, normalise, target_layers

STUDENT, FAKE, TEACHER = "student", "fake", "teacher"


class Roles:
    """Which role computes at present."""

    def __init__(self) -> None:
        self.active = TEACHER

    @contextmanager
    def using(self, role: str) -> Iterator[None]:
        """Inside, ``role`` computes; afterwards the one before."""
        before, self.active = self.active, role
        try:
            yield
        finally:
            self.active = before


class LowRank(nn.Module):
    """``scale * B (A x)``: ``lora_A`` is [R, I], ``lora_B`` [O, R] and zero at first."""

    def __init__(self, like: Tensor, config: LoRAConfig) -> None:
        super().__init__()
        outputs, inputs = like.shape
        self.scale = config.scale
        # In float32 whatever the base is stored in: a step of training is smaller than bfloat16 can represent.
        precise = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
        self.lora_A = nn.Parameter(precise.new_empty(config.rank, inputs))
        self.lora_B = nn.Parameter(precise.new_zeros(outputs, config.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., I] to [..., O]."""
        return self.scale * F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))


class SharedLinear(nn.Linear):
    """A frozen linear layer with an adapter for every role that has one."""

    def __init__(self, linear: nn.Linear, config: LoRAConfig, roles: Roles, names: tuple[str, ...]) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.roles = roles
        self.adapters = nn.ModuleDict({name: LowRank(linear.weight.detach(), config) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., I] to [..., O], as the active role computes it."""
        plain = super().forward(x)
        return plain + self.adapters[self.roles.active](x) if self.roles.active in self.adapters else plain


def share(dit: CausalDiT, config: LoRAConfig, names: tuple[str, ...]) -> Roles:
    """Freezes ``dit`` and puts an adapter for each of ``names`` on every target layer."""
    roles = Roles()
    dit.requires_grad_(False)
    for ours in target_layers(dit, public_names(dit.config), config).values():
        parent, _, child = ours.rpartition(".")
        layer = dit.get_submodule(ours)
        assert isinstance(layer, nn.Linear)
        setattr(dit.get_submodule(parent), child, SharedLinear(layer, config, roles, names))
    return roles


def adapter_parameters(module: nn.Module, role: str) -> dict[str, nn.Parameter]:
    """The parameters of one role's adapters, by their names in ``module``."""
    return {name: p for name, p in module.named_parameters() if f".adapters.{role}." in name}


def adapter_keys(dit: CausalDiT, config: LoRAConfig, role: str) -> dict[str, str]:
    """Public adapter key to the name of the parameter in a ``dit`` after ``share``."""
    keys: dict[str, str] = {}
    for layer, ours in target_layers(dit, public_names(dit.config), config).items():
        for half in "AB":
            keys[f"{layer}.lora_{half}.default.weight"] = f"{ours}.adapters.{role}.lora_{half}"
    return keys


def load_adapter(dit: CausalDiT, config: LoRAConfig, role: str, tensors: Mapping[str, Tensor], source: str) -> None:
    """Makes ``tensors`` (public keys, any spelling) the adapter of ``role``.

    Raises:
        WeightsError: not exactly the tensors of this adapter; nothing has changed then.
    """
    adapter = normalise(tensors)
    names = public_names(dit.config)
    tensor_difference(adapter, adapter_shapes(dit, names, config), source).raise_if_any()
    for public, ours in adapter_keys(dit, config, role).items():
        dit.get_parameter(ours).data.copy_(adapter[public])
