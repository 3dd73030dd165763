"""Settings of a denoising stage."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from live_avatar.config import MAX_STEPS
from live_avatar.serving.compile_settings import CompileSettings
from live_avatar.serving.settings import ClientTlsSettings

_STEPS = re.compile(r"(\d{1,2})(?:-(\d{1,2}))?")


class DenoiseStageSettings(CompileSettings):
    """Performs a slice of the denoising steps on every block."""

    name: str = Field(
        default="", description="name in logs, metrics and timings; unset: denoise-stage- and its first step"
    )
    next: str = Field(description="address of the next stage, or of the VAE decoder behind the last one, as host:port")
    tls: ClientTlsSettings = ClientTlsSettings()
    steps: str = Field(description="steps of this stage, counted from 0: 2, or 0-3, or 0,1")
    step_count: int = Field(default=4, ge=1, le=MAX_STEPS, description="steps of the whole schedule")
    join_last_step: bool = Field(
        default=False,
        description="follow the trajectory of step_count + 1 steps with its tiny last step merged",
    )
    replay: Path | None = Field(
        default=None, description="safetensors file with recorded noise and distances to use instead of random numbers"
    )

    linear: Literal["exact", "fp8"] = Field(
        default="exact", description="fp8: most linear layers in 8-bit floats; needs fp8_report"
    )
    fp8_report: Path | None = Field(
        default=None,
        description="report of python -m live_avatar.services.denoise_stage.quantization_check about these weights",
    )
    kv: Literal["exact", "fp8"] = Field(
        default="exact", description="fp8: keys and values in 8-bit floats, for twice the sessions in the same memory"
    )

    @model_validator(mode="after")
    def _steps_must_fit(self) -> Self:
        if self.step_range.stop > self.step_count:
            raise ValueError(f"steps {self.steps} are beyond the schedule of {self.step_count}, counted from 0")
        if self.join_last_step and self.step_count == MAX_STEPS:
            raise ValueError(f"join_last_step follows {MAX_STEPS + 1} steps, at most {MAX_STEPS} are possible")
        return self

    @property
    def step_range(self) -> range:
        """The steps of this stage."""
        return parse_steps(self.steps)

    @property
    def service_name(self) -> str:
        """``name``, or one that says which stage it is."""
        return self.name or f"denoise-stage-{self.step_range.start}"


def parse_steps(text: str) -> range:
    """Steps such as ``2``, ``0-3`` or ``0,1``.

    Raises:
        ValueError: not steps, or not consecutive ones.
    """
    steps: list[int] = []
    for item in text.split(","):
        match = _STEPS.fullmatch(item.strip())
        if match is None:
            raise ValueError(f"steps {text!r} are not a number, a range or a list, such as 2, 0-3 or 0,1")
        steps += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not steps or steps != list(range(steps[0], steps[0] + len(steps))):
        raise ValueError(f"steps {text!r} are not consecutive")
    return range(steps[0], steps[-1] + 1)
