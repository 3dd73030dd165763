"""How the steps are split over stages."""

from itertools import pairwise


def split_steps(steps: int, stages: int) -> tuple[range, ...]:
    """Splits the steps over ``stages`` stages in contiguous slices, as evenly as it goes, longer slices first.

    Raises:
        ValueError: more stages than steps, or none.
    """
    if not 1 <= stages <= steps:
        raise ValueError(f"{steps} steps cannot be split over {stages} stages: each needs at least one")
    size, longer = divmod(steps, stages)
    bounds = [stage * size + min(stage, longer) for stage in range(stages + 1)]
    return tuple(range(first, last) for first, last in pairwise(bounds))
