"""Sizes that are served, and those that are refused with a reason."""

import pytest

from live_avatar.config import S2V_14B, TINY, Preset
from live_avatar.streaming.picture import latent_size


@pytest.mark.parametrize(
    ("preset", "width", "height", "size"),
    [(TINY, 64, 64, (8, 8)), (S2V_14B, 720, 400, (50, 90)), (S2V_14B, 384, 704, (88, 48))],
)
def test_sizes(preset: Preset, width: int, height: int, size: tuple[int, int]) -> None:
    assert latent_size(preset, width, height) == size


@pytest.mark.parametrize(
    ("width", "height", "complaint"),
    [
        (720, 416, "over"),
        (2**32 - 1, 2**32 - 1, "over"),
        (712, 400, "multiple"),
        (400, 392, "multiple"),
        (0, 0, "under"),
        (48, 400, "under"),
    ],
)
def test_sizes_that_are_refused(width: int, height: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        latent_size(S2V_14B, width, height)
