"""How the denoising steps are spread over stages.

Plain data: knows neither processes nor networks.
"""

import re
from dataclasses import dataclass

from live_avatar.config import MAX_STEPS
from live_avatar.limits import MAX_STAGES

_GRID = re.compile(r"([1-9]\d?)x([1-9]\d?)")
_SLICE = re.compile(r"(\d{1,2})(?:-(\d{1,2}))?")


@dataclass(frozen=True)
class Layout:
    """The steps of each stage, in order; together they are 0, 1, 2 and so on."""

    stages: tuple[range, ...]

    @property
    def step_count(self) -> int:
        """Steps of the whole schedule."""
        return self.stages[-1].stop


def parse_layout(text: str) -> Layout:
    """``4x1`` is four stages of one step; ``0-1/2/3`` names the steps of each stage.

    Raises:
        ValueError: it is neither, or the steps leave a gap.
    """
    grid = _GRID.fullmatch(text)
    if grid is not None:
        stages, steps = int(grid[1]), int(grid[2])
        slices = tuple(range(stage * steps, (stage + 1) * steps) for stage in range(stages))
    else:
        slices = tuple(_slice(part, text) for part in text.split("/"))
    ends = [0, *(steps.stop for steps in slices)]
    if any(steps.start != end or not steps for steps, end in zip(slices, ends, strict=False)):
        raise ValueError(f"layout {text!r}: the stages must perform the steps 0, 1, 2 and so on in this order")
    if ends[-1] > MAX_STEPS:
        raise ValueError(f"layout {text!r} has {ends[-1]} steps, at most {MAX_STEPS} are possible")
    if len(slices) > MAX_STAGES:
        raise ValueError(f"layout {text!r} has {len(slices)} stages, at most {MAX_STAGES} are started on one machine")
    return Layout(slices)


def _slice(part: str, text: str) -> range:
    match = _SLICE.fullmatch(part)
    if match is None:
        raise ValueError(f"layout {text!r} is neither STAGESxSTEPS, such as 4x1, nor steps by stage, such as 0-1/2/3")
    return range(int(match[1]), int(match[2] or match[1]) + 1)
