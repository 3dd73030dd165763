"""Which size a portrait gets and what of it is shown."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from live_avatar.config import TINY
from live_avatar.model.portrait import prepare_portrait
from live_avatar.portrait.fitting import FitRule, fit_portrait
from live_avatar.portrait.sizing import target_size

SIDES = st.integers(16, 4000)
RULES: tuple[FitRule, ...] = ("reference", "cover")


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green grows downwards, blue is full: black can only come from outside."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [columns * 255 // max(1, width - 1), rows * 255 // max(1, height - 1), np.full_like(rows, 255)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "max_area", "expected"),
    [
        ((1280, 720), 720 * 400, (704, 384)),
        ((400, 720), 704 * 384, (384, 704)),
        ((512, 512), 688 * 368, (448, 448)),
        ((768, 512), 720 * 400, (640, 448)),
        ((300, 200), 384 * 256, (320, 256)),
    ],
)
def test_sizes_of_the_specification(size: tuple[int, int], max_area: int, expected: tuple[int, int]) -> None:
    assert target_size(*size, max_area) == expected


@given(height=SIDES, width=SIDES, max_area=st.integers(64 * 64, 1280 * 720), divisor=st.sampled_from([8, 16, 64]))
def test_every_size_is_whole_fits_and_never_enlarges_beyond_rounding(
    height: int, width: int, max_area: int, divisor: int
) -> None:
    try:
        target = target_size(height, width, max_area, divisor)
    except ValueError:
        assert max(height, width) / min(height, width) > 4
        return
    assert math.prod(target) <= max_area
    for side, original in zip(target, (height, width), strict=True):
        assert side > 0
        assert side % divisor == 0
        assert side < original + divisor


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (512, 512), (4000, 1000)])
def test_the_tiny_preset_always_gets_its_square(size: tuple[int, int]) -> None:
    assert math.prod(target_size(*size, TINY.max_area)) == TINY.max_area


@pytest.mark.parametrize("wrong", [(0, 10, 5000), (10, -1, 5000), (10, 10, 63 * 64)])
def test_impossible_sizes_are_named(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=str(wrong[1])):
        target_size(*wrong)


@pytest.mark.parametrize("rule", RULES)
def test_a_picture_of_the_right_size_is_only_rescaled_in_value(rule: FitRule) -> None:
    image = gradient(96, 64)
    pixels = prepare_portrait(image, 64, 96, rule)
    assert pixels.shape == (3, 64, 96)
    assert pixels.dtype == torch.float32
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_the_reference_rule_pads_with_black_where_the_picture_does_not_reach() -> None:
    blue = np.array(fit_portrait(gradient(720, 1280), 704, 384, "reference"))[..., 2]
    assert blue.shape == (704, 384)
    assert (blue[:11] == 0).all()
    assert (blue[11:-11] == 255).all()
    assert (blue[-11:] == 0).all()


@given(
    width=st.integers(16, 300), height=st.integers(16, 300), target=st.sampled_from([(64, 64), (64, 128), (128, 64)])
)
def test_cover_leaves_no_black_and_cuts_both_ends_alike(width: int, height: int, target: tuple[int, int]) -> None:
    pixels = np.array(fit_portrait(gradient(width, height), *target, "cover")).astype(int)
    assert pixels.shape == (*target, 3)
    assert (pixels[..., 2] == 255).all()
    for plane, axis, original in ((pixels[..., 0], 1, width), (pixels[..., 1], 0, height)):
        means = plane.mean(1 - axis)
        # An odd number of surplus rows leaves one more at one end; the gradient and the resized picture are rounded.
        assert abs(means[0] - (255 - means[-1])) <= 255 / min(original, target[axis]) + 4


@pytest.mark.parametrize("rule", RULES)
def test_other_modes_become_rgb(rule: FitRule) -> None:
    assert prepare_portrait(Image.new("L", (20, 30), 255), 16, 16, rule)[:, 8, 8].tolist() == [1, 1, 1]


def test_a_target_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="height=0"):
        prepare_portrait(gradient(8, 8), 0, 8, "cover")
