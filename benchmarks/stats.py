"""Arithmetic on what was measured.  Knows numbers alone."""

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all values do not exceed; raises ValueError for no values."""
    if not values:
        raise ValueError("nothing was measured")
    if not 0 < percent <= 100:
        raise ValueError(f"percent={percent} is outside 0..100")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def fairness(rates: Sequence[float]) -> float:
    """Jain's index: 1 where all rates are equal, 1/n where one of n has everything; raises ValueError for no rate."""
    if not rates or not any(rates):
        raise ValueError("nothing was measured")
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


def rate(arrivals_s: Sequence[float], frames: int, first: int) -> float:
    """Frames per second between the arrival of item ``first`` and that of the last one, ``frames`` per item.

    Raises:
        ValueError: fewer than two items from ``first`` on.
    """
    steady = arrivals_s[first:]
    if len(steady) < 2:
        raise ValueError(f"{len(arrivals_s)} arrivals are too few to leave out the first {first}")
    return frames * (len(steady) - 1) / (steady[-1] - steady[0])
