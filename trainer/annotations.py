"""Annotations of a clip by its source: portrait and important region, or why it cannot be used."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


class ClipError(ValueError):
    """A clip that cannot be trained on; the message says why."""


@dataclass(frozen=True, kw_only=True)
class ClipAnnotations:
    """Annotations of a clip."""

    portrait: npt.NDArray[np.uint8] | None = None
    """[H, W, 3] its reference; None: one of its frames."""
    important: tuple[int, int, int, int] | None = None
    """Top, left, bottom and right pixel of what the clip is about, such as a mouth."""


NO_ANNOTATIONS = ClipAnnotations()
