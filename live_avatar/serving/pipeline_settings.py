"""Settings that the services of a pipeline share: what they compute with, and how they treat their neighbours."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from live_avatar.config import TINY, preset
from live_avatar.serving.settings import Settings
from live_avatar.serving.timing import HopTiming


class PipelineSettings(Settings):
    """Base of the settings of a service in the chain."""

    former_names: ClassVar = {"block_deadline_seconds": "service_deadline_seconds"}

    preset: str = Field(
        default=TINY.name, description="the system to run: TINY, S2V_14B, or a .json file that describes one"
    )
    weights: Path | None = Field(
        default=None,
        description="folder of live-avatar weights convert; unset: random weights, for small systems only",
    )
    weights_digest: str = Field(
        default="",
        pattern="^([0-9a-f]{64})?$",
        description="digest that the weights must have, as live-avatar weights check prints it; unset: any",
    )
    device: str = Field(default="cpu", description="cpu, cuda or cuda:N")
    threads: int = Field(default=1, ge=1, le=256, description="CPU threads of one operation")
    max_sessions: int = Field(default=0, ge=0, description="sessions at the same time; 0: as many as memory allows")
    memory_fraction: float = Field(
        default=0.8, gt=0, le=1, description="fraction of the memory free after loading that sessions may use"
    )
    block_credits: int = Field(
        default=2, ge=1, le=1024, description="blocks that the previous service may have in flight to this one"
    )
    service_deadline_seconds: float = Field(
        default=HopTiming.service_deadline_s,
        gt=0,
        le=3600,
        description="a block that runs for longer in this service makes it count as lost; "
        "formerly block_deadline_seconds",
    )

    @field_validator("preset")
    @classmethod
    def _must_exist(cls, name: str) -> str:
        preset(name)
        return name
