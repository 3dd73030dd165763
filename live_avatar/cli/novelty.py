"""Says before anything is started that the weights do not know a portrait, where that is quickly known.

Loads torch and the autoencoder, so only for presets of small pictures; the pipeline says it of all others.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from live_avatar.cli.warnings import Warnings
from live_avatar.config import Preset
from live_avatar.config import preset as preset_named

if TYPE_CHECKING:
    from live_avatar.novelty import Novelty

_QUICK_AREA = 128 * 128
"""Pixels of the largest picture whose autoencoder takes no time to speak of."""


def warn_if_unlike(image: bytes, preset: str, weights: Path | None, warnings: Warnings) -> None:
    """Warns of a portrait that the weights of a pipeline on this machine do not know.

    Prints nothing where the weights have no description, or it would take long.

    Raises:
        ValueError: the portrait cannot be used, or the weights cannot.
    """
    system = preset_named(preset)
    if weights is None or not (weights / "portraits").is_dir() or system.max_area > _QUICK_AREA:
        return
    novelty = _novelty(image, system, weights)
    if not novelty.is_familiar:
        from live_avatar.novelty import PORTRAIT_UNLIKE_TRAINING

        warnings.show(PORTRAIT_UNLIKE_TRAINING, novelty.message)


def _novelty(image: bytes, system: Preset, weights: Path) -> "Novelty":
    import numpy as np

    from live_avatar.model import components
    from live_avatar.model.portrait import portrait_tensor
    from live_avatar.model.vae import VAE
    from live_avatar.portrait import jobs
    from live_avatar.portrait.limits import DEFAULT_LIMITS
    from live_avatar.portrait.sizing import target_size

    held_to = asdict(DEFAULT_LIMITS)
    facts, _ = jobs.measure(image, limits=held_to, needed=math.isqrt(system.max_area))
    height, width = target_size(facts["height"], facts["width"], system.max_area)
    _, drawn = jobs.draw(image, limits=held_to, height=height, width=width, fit="cover")
    portraits = components.load_training_portraits(system, weights)
    vae = components.load(system, "vae", weights)
    assert isinstance(vae, VAE) and portraits is not None
    pixels = np.frombuffer(bytearray(drawn), np.uint8).reshape(height, width, 3)
    return portraits.novelty(vae, portrait_tensor(pixels))
