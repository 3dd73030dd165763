"""The average of the weights of a small run, in few calls: a GPU would wait for one call per tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], step: int, decay: float) -> None:
    """Moves ``average`` towards ``weights`` of the same names after step ``step`` of a run, the first being 1.

    ``decay`` (0 to 1) is how much of the average stays; early in a run less, so that the start is soon forgotten.
    """
    kept = min(decay, step / (step + 10))
    torch._foreach_lerp_([average[name] for name in weights], list(weights.values()), 1 - kept)
