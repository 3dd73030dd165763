"""One model over several processes: sharded parameters (FSDP2), gradient checkpointing, and who is who.

Acts on a finished network from outside.  ``torchrun`` starts the processes; alone, a process is a group of one and
nothing is sharded.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from live_avatar.config import DataType
from live_avatar.trainer.adapters import Roles
from live_avatar.trainer.network import SpeechToVideo


@dataclass(frozen=True)
class Processes:
    """This process among all of the run."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def mean(self, value: Tensor) -> float:
        """The mean of a number over all processes."""
        if self.count > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return float(value) / self.count

    def any(self, value: bool) -> bool:
        """Whether ``value`` holds on any process."""
        return self.mean(torch.tensor(float(value), device=self.device)) > 0

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Joins the processes that ``torchrun`` started; without it this one is alone.

    Raises:
        ValueError: there is no such device.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch sees no CUDA device; give --device cpu")
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if count > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count, place)
    finally:
        if count > 1:
            dist.destroy_process_group()


def checkpoint_layers(network: SpeechToVideo, roles: Roles | None) -> None:
    """Keeps only the inputs of layers for the backward pass, which computes the rest again, in the same role."""
    for layer in network.dit.layers:
        layer.forward = functools.partial(_again, layer.forward, roles)


def _again(forward: Callable[..., Any], roles: Roles | None, *inputs: Any) -> Any:
    role = roles.active if roles else None

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), nullcontext() if roles is None else roles.using(str(role))

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


def shard(network: SpeechToVideo, group: Processes, compute: DataType) -> None:
    """Splits the parameters over all processes, layer by layer; nothing happens to a process alone.

    Where ``compute`` is bfloat16, weights are gathered in it, and float32 ones stay so where they are kept.
    Text keys and values are computed before the layers run, so each layer's cross-attention is a unit of its own.
    """
    if group.count == 1:
        return
    split = functools.partial(
        fully_shard,
        mesh=init_device_mesh(group.device.type, (group.count,)),
        mp_policy=_policy(network, compute),
    )
    for layer in network.dit.layers:
        attention = layer.get_submodule("cross_attn")
        split(attention)
        register_fsdp_forward_method(attention, "keys_values")
        split(layer)
    split(network)
    _allocate(network)


def _policy(network: SpeechToVideo, compute: DataType) -> MixedPrecisionPolicy:
    """Casts weights to ``compute`` where all of them are trained; adapters cast themselves, beside a frozen base."""
    if compute == "float32" or not network.dit.patch_embedding.weight.requires_grad:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _allocate(network: nn.Module) -> None:
    """Gathers every unit once, so that none does so first in inference mode, whose tensors autograd refuses."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()


def precision(name: DataType, device: torch.device) -> AbstractContextManager[None]:
    """Matrix products in bfloat16, or everything as it is."""
    if name == "float32":
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16)
    return context
