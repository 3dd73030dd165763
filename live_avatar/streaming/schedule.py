"""Noise levels: which the stages step through, and which training draws from (spec 2.2, 10.2).

Pure numbers and one Euler step.  Nothing here knows a model, a stage or a block.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from live_avatar.config import MAX_STEPS

INFERENCE_SHIFT = 3
"""Shift of the noise levels in the released model."""
_LOWEST_LEVEL = Fraction(1, 1000)
"""Noise level of the last of the 1000 levels that the released model was trained on, before any shift."""
_DIGITS = 15
"""Digits that noise levels are kept to, so that they are the same numbers on every machine."""

TIMESTEP_SCALE = 1000.0
"""The model receives 1000 * sigma."""


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one denoising, from 1 (pure noise) to 0 (clean)."""

    sigmas: tuple[float, ...]
    """One per step; the last step ends at 0."""

    @property
    def steps(self) -> int:
        """Denoising steps per block."""
        return len(self.sigmas)

    def timestep(self, step: int) -> float:
        """The time that the model receives at ``step``, in 0..1000."""
        return TIMESTEP_SCALE * self.sigmas[step]

    def delta(self, step: int) -> float:
        """Change of the noise level over ``step``; negative."""
        following = self.sigmas[step + 1] if step + 1 < self.steps else 0.0
        return following - self.sigmas[step]

    def advance(self, latent: Tensor, velocity: Tensor, step: int) -> Tensor:
        """One Euler step without new noise: ``latent + delta * velocity``.

        The product is taken in the type of the velocity and the sum in float32, as the reference does, so that
        bfloat16 roll-outs stay comparable.  Returns the type of ``latent``.
        """
        change = torch.tensor(self.delta(step), dtype=velocity.dtype) * velocity
        return (latent.float() + change.float()).to(latent.dtype)

    def noised(self, clean: Tensor, noise: Tensor, step: int) -> Tensor:
        """``clean`` latents at the noise level of ``step``, in float32: on the straight line to their ``noise``."""
        sigma = self.sigmas[step]
        return (1 - sigma) * clean.float() + sigma * noise.float()

    def without_last_step(self) -> "Schedule":
        """The same path with the last, tiny step joined to the one before: a quarter less work, a 0.9 % shortcut."""
        return Schedule(self.sigmas[:-1])


def inference_schedule(steps: int) -> Schedule:
    """Derives the schedule of ``steps`` steps, 1 to ``MAX_STEPS``, by the rule of the reference (spec 2.2).

    The reference spaces its levels evenly from 1 down to the lowest level, which is shifted already, and shifts all of
    them (again).  The doubled shift is what the released weights were distilled with.

    Raises:
        ValueError: steps is outside 1..MAX_STEPS.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"no schedule of {steps} steps; 1 to {MAX_STEPS} are possible")
    lowest = _shift(_LOWEST_LEVEL)
    levels = [1 - (1 - lowest) * Fraction(step, max(1, steps - 1)) for step in range(steps)]
    return Schedule(tuple(round(float(_shift(level)), _DIGITS) for level in levels))


def _shift(level: Fraction) -> Fraction:
    """``shifted_sigma`` at ``INFERENCE_SHIFT``, without rounding."""
    return INFERENCE_SHIFT * level / (1 + (INFERENCE_SHIFT - 1) * level)


def shifted_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Moves noise levels in [0, 1] towards 1: ``shift * s / (1 + (shift - 1) * s)``."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def training_sigmas(shift: float, steps: int = 1000) -> Tensor:
    """[steps] float32 noise levels for training, from 1 down to the last above 0 (spec 10.2)."""
    return shifted_sigma(1 - torch.arange(steps, dtype=torch.float64) / steps, shift).float()
