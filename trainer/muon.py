"""Adam for vectors, orthogonalised momentum for matrices: fewer steps for small convolutional networks.

The momentum of a weight matrix is replaced by the nearest matrix whose singular values are all about 1, so that every
direction moves equally far (Jordan et al. 2024, "Muon"); scaled so that a learning rate means what it means to Adam.
"""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that drives singular values towards 1."""
_ITERATIONS = 5
_RMS = 0.2
"""Root mean square of an update of learning rate 1, as usual with Adam."""


class Muon(torch.optim.Optimizer):
    """Moves weights of two or more axes; an axis of outputs first, all others are inputs."""

    def __init__(self, weights: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group["lr"])

    def _move(self, weight: Tensor, gradient: Tensor, learning_rate: float) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)
        matrix = orthogonal(ahead.flatten(1))
        scale = _RMS * max(matrix.shape) ** 0.5
        weight.add_(matrix.view_as(weight), alpha=-learning_rate * scale)


def muon_and_adam(
    network: nn.Module, apart: Collection[nn.Parameter], *, betas: tuple[float, float], weight_decay: float = 0.0
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the weights of ``network`` that map features to features; Adam for its gains, its biases and ``apart``.

    Learning rates are 0 until they are set.
    """
    others = {id(each) for each in apart}
    matrices = [
        each for each in network.parameters() if sum(side > 1 for side in each.shape) > 1 and id(each) not in others
    ]
    chosen = {id(each) for each in matrices}
    rest = [each for each in network.parameters() if id(each) not in chosen]
    return Muon(matrices, lr=0.0), torch.optim.AdamW(rest, lr=0.0, betas=betas, weight_decay=weight_decay)


def orthogonal(matrix: Tensor) -> Tensor:
    """``matrix`` [m, n] with singular values near 1, its directions kept."""
    x: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T
