"""Which size of video suits a portrait."""

import math

SMALLEST_SCALE = 0.1
"""A picture that fits already is scaled down to no less than this (spec 8.1)."""
SEARCH_STEPS = 100


def target_size(height: int, width: int, max_area: int, divisor: int = 64) -> tuple[int, int]:
    """Height and width of the video for a portrait of ``height`` x ``width`` pixels (spec 8.1).

    The first of 100 falling scales at which both sides, rounded up to multiples of ``divisor``, hold at most
    ``max_area`` pixels.  A portrait is never enlarged beyond that rounding.

    Raises:
        ValueError: a side is not positive, or no picture of this shape fits into ``max_area``.
    """
    if min(height, width, divisor) < 1:
        raise ValueError(f"height={height}, width={width}, divisor={divisor} must be positive")
    area = height * width
    largest, smallest = 1.0, SMALLEST_SCALE
    if area > max_area:
        slack = divisor - 1
        linear = slack * (height + width)
        constant = slack**2 - max_area
        largest = math.sqrt(max_area / area)
        smallest = (-linear + math.sqrt(max(0, linear**2 - 2 * area * constant))) / (2 * area)
    for step in range(SEARCH_STEPS):
        scale = largest - (largest - smallest) * step / SEARCH_STEPS
        sides = [math.ceil(max(1, int(side * scale)) / divisor) * divisor for side in (height, width)]
        if math.prod(sides) <= max_area:
            return sides[0], sides[1]
    return _floored_size(height, width, max_area, divisor)


def _floored_size(height: int, width: int, max_area: int, divisor: int) -> tuple[int, int]:
    """The size where the search finds none: sides of the right area rounded down, but never enlarged."""
    sides = math.sqrt(max_area * height / width), math.sqrt(max_area * width / height)
    if sides[0] >= height or sides[1] >= width:
        sides = height, width
    fitted = [int(side // divisor) * divisor for side in sides]
    if not all(fitted):
        raise ValueError(f"a {height}x{width} picture does not fit into max_area={max_area} in multiples of {divisor}")
    return fitted[0], fitted[1]
