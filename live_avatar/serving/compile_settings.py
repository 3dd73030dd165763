"""Settings of a service whose networks can run compiled."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from live_avatar.config import preset
from live_avatar.memory import largest_size
from live_avatar.serving.pipeline_settings import PipelineSettings
from live_avatar.serving.settings import CommaSeparated

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


class CompileSettings(PipelineSettings):
    """Base of the settings of such a service."""

    forward: Literal["eager", "compiled"] = Field(
        default="eager",
        description="compiled: generated code, which takes minutes at the first start; on a GPU also a CUDA graph",
    )
    warm_sizes: CommaSeparated[str] = Field(
        default=(),
        description="frame sizes that code is compiled for, as 704x384; others run eager; unset: the largest",
    )
    compile_cache: Path | None = Field(
        default=None, description="folder that keeps compiled code across restarts; unset: one in the temporary folder"
    )

    @field_validator("warm_sizes")
    @classmethod
    def _must_be_sizes(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        for size in sizes:
            if _SIZE.fullmatch(size) is None:
                raise ValueError(f"size {size!r} is not width x height, such as 704x384")
        return sizes

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of every picture to warm up for."""
        if not self.warm_sizes:
            height, width = largest_size(preset(self.preset))
            return ((width, height),)
        found = (_SIZE.fullmatch(size) for size in self.warm_sizes)
        return tuple((int(size[1]), int(size[2])) for size in found if size is not None)
