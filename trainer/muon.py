"""Adam for vectors, orthogonalised momentum for matrices: fewer steps for small convolutional networks.

The momentum of a weight matrix is replaced by the nearest matrix whose singular values are all about 1, so that every
direction moves equally far (Jordan et al. 2024, "Muon"); scaled so that a learning rate means what it means to Adam.
"""

from collections.abc import Collection, Iterable, Sequence

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
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.flatten(1).shape, []).append(weight)
            for weights in alike.values():
                self._move(weights, group["lr"])

    def _move(self, weights: Sequence[Tensor], learning_rate: float) -> None:
        """Weights of one shape as a matrix, all at once: a GPU would wait for the many small products of each."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [self._momentum(weight) for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        matrices = orthogonal(torch.stack([one.flatten(1) for one in ahead]))
        scale = _RMS * max(matrices.shape[1:]) ** 0.5
        steps = [matrix.view_as(weight) for weight, matrix in zip(weights, matrices, strict=True)]
        torch._foreach_add_(list(weights), steps, alpha=-learning_rate * scale)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


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
    """``matrix`` [..., m, n] with singular values near 1, its directions kept."""
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if is_tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x
