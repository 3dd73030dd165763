"""How unlike its training a portrait is, as the services and commands say it.

Knows the verdict alone; how it is measured is the business of ``live_avatar.model.novelty``.
"""

from dataclasses import dataclass

PORTRAIT_UNLIKE_TRAINING = "PORTRAIT_UNLIKE_TRAINING"
"""Reason of the warning; part of the API."""


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """A portrait beside the portraits that the weights were trained on."""

    measured: float
    """How unlike them it is: 1 is as unlike as the most unlike of those held out from training."""
    threshold: float
    """Up to here it counts as one of their kind."""
    trained_on: str
    """What those portraits are, in words; may be empty."""

    @property
    def is_familiar(self) -> bool:
        """Whether the portrait is of the kind the weights know."""
        return self.measured <= self.threshold

    @property
    def message(self) -> str:
        """What a person should know about an unlike portrait: what will be seen, and what to do."""
        known = f" ({self.trained_on})" if self.trained_on else ""
        return (
            f"the portrait is unlike those that the weights were trained on{known}: the video will show a smear "
            "instead of the face; use a portrait of their kind, or weights trained on pictures like this one "
            f"(measured {self.measured:.1f}, at most {self.threshold:g} is like them)"
        )

    @property
    def metadata(self) -> dict[str, str]:
        """The numbers, for programs."""
        return {"measured": f"{self.measured:.3f}", "threshold": f"{self.threshold:g}"}
