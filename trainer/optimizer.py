"""Optimizer of one set of parameters, with their moving average and the state that a checkpoint keeps.

Knows nothing of losses.  Parameters may be sharded: everything here works on each process's part.
"""

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from live_avatar.trainer.presets import TrainingConfig

_MOMENTS = ("exp_avg", "exp_avg_sq")


class EmaOptimizer:
    """AdamW over named parameters, with clipped gradients and an average of the weights."""

    def __init__(
        self, name: str, parameters: dict[str, nn.Parameter], config: TrainingConfig, learning_rate: float
    ) -> None:
        assert parameters, f"{name} has nothing to train"
        self.name = name
        self.config = config
        self.learning_rate = learning_rate
        self.parameters = parameters
        self.average = {key: parameter.detach().clone() for key, parameter in parameters.items()}
        self.adamw = torch.optim.AdamW(
            parameters.values(), lr=learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        for parameter in parameters.values():
            self._begin(parameter)

    def _begin(self, parameter: nn.Parameter) -> None:
        """The optimizer's memory of ``parameter``, made now, so that a checkpoint finds a place for it."""
        zeros = {moment: torch.zeros_like(parameter) for moment in _MOMENTS}
        self.adamw.state[parameter] = {"step": torch.tensor(0.0), **zeros}

    def update(self, step: int) -> float:
        """Moves the weights by the gradients that have come together, and forgets these; returns their norm.

        Raises:
            FloatingPointError: the gradients are not finite; nothing has moved.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm)
        total = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if not math.isfinite(total):
            raise FloatingPointError(f"{self.name}: the gradient's norm is {total} at step {step}")
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate * rate(self.config, step)
        self.adamw.step()
        self.adamw.zero_grad()
        self._average(step)
        return total

    @torch.no_grad()
    def _average(self, step: int) -> None:
        weight = 1 - self.config.ema if step >= self.config.ema_from else 1.0
        for key, parameter in self.parameters.items():
            self.average[key].lerp_(parameter.detach(), weight)

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint keeps, by name; loading writes into these very tensors."""
        state: dict[str, Tensor] = {}
        for key, parameter in self.parameters.items():
            state[f"{self.name}.weights.{key}"] = parameter.detach()
            state[f"{self.name}.average.{key}"] = self.average[key]
            for part, value in self.adamw.state[parameter].items():
                state[f"{self.name}.optimizer.{part}.{key}"] = value
        return state


def rate(config: TrainingConfig, step: int) -> float:
    """Share of the learning rate at ``step``: a linear rise, then a cosine down to ``final_rate``."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    progress = min(1.0, step / config.steps)
    return warm * (config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * progress)))
