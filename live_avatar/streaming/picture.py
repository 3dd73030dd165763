"""Which picture sizes a pipeline serves, and how large their latents are.

Knows nothing of portraits: what size suits a portrait is asked elsewhere.
"""

from live_avatar.config import Preset

SMALLEST_SIDE = 8
"""Latent pixels; the coarsest motion tokens cover as many (spec 1.9)."""


def latent_size(preset: Preset, width: int, height: int) -> tuple[int, int]:
    """Height and width of the latents of a picture of ``width`` x ``height`` pixels.

    Raises:
        ValueError: the picture is larger than the preset's, too small, or not a whole number of patches.
    """
    if width * height > preset.max_area:
        raise ValueError(f"a picture of {width}x{height} is over {preset.max_area} pixels, the most of {preset.name}")
    _, patch_h, patch_w = preset.dit.patch
    factor = preset.vae.spatial_factor
    if height % (patch_h * factor) or width % (patch_w * factor):
        raise ValueError(
            f"a picture of {width}x{height} is not a multiple of {patch_w * factor}x{patch_h * factor} pixels"
        )
    if min(width, height) < SMALLEST_SIDE * factor:
        raise ValueError(f"a picture of {width}x{height} has a side under {SMALLEST_SIDE * factor} pixels")
    return height // factor, width // factor
