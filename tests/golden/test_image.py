"""Portrait sizes and pixels against the goldens of kind image."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import reduce
from PIL import Image

from live_avatar.model.portrait import prepare_portrait
from live_avatar.portrait.fitting import fit_portrait
from live_avatar.portrait.reading import load_portrait
from live_avatar.portrait.sizing import target_size
from tests.golden.conftest import Golden

pytestmark = pytest.mark.golden_kind("image")


def picture(golden: Golden, filename: str) -> Image.Image:
    path = golden.media(filename)
    if path is None:
        pytest.skip(f"no media folder with {filename} beside the goldens")
    return decoded(path)


@cache
def decoded(path: Path) -> Image.Image:
    return load_portrait(path.read_bytes())


def assert_nearly(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], golden: Golden) -> None:
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
    assert difference <= golden.meta["tolerance"]["atol"], difference


def test_the_area_rule_gives_every_row_of_the_table(golden: Golden) -> None:
    divisor = golden.meta["config"]["divisor"]
    rows = golden.tensors["area_rule/table"].tolist()
    for height, width, max_area, *expected in rows:
        assert [*target_size(height, width, max_area, divisor)] == expected, (height, width, max_area)


def test_target_sizes_of_pictures(golden: Golden) -> None:
    divisor = golden.meta["config"]["divisor"]
    for row in golden.meta["target_sizes"]:
        height, width = row["image_hw"]
        assert [*target_size(height, width, row["max_area"], divisor)] == row["target_hw"], row


def test_model_input_is_the_picture_in_minus_one_to_one(golden: Golden) -> None:
    for name in small_names(golden):
        exact = Image.fromarray(golden.tensors[f"small/{name}/uint8"].numpy())
        pixels = prepare_portrait(exact, exact.height, exact.width, "reference")
        torch.testing.assert_close(pixels[None, :, None], golden.tensors[f"small/{name}/pixels"], rtol=0, atol=1e-6)


def test_small_pictures(golden: Golden) -> None:
    for name in small_names(golden):
        image = picture(golden, filename_of(golden, name))
        max_area = int(golden.tensors[f"small/{name}/max_area"])
        size = target_size(image.height, image.width, max_area, golden.meta["config"]["divisor"])
        fitted = np.array(fit_portrait(image, *size, "reference"))
        assert fitted.shape == tuple(golden.tensors[f"small/{name}/uint8"].shape)
        assert_nearly(fitted, golden.tensors[f"small/{name}/uint8"].numpy(), golden)


def test_production_sizes(golden: Golden) -> None:
    exact = same_decoder(golden)
    for stats in golden.meta["production_stats"]:
        image = picture(golden, stats["image"])
        assert [image.height, image.width] == stats["image_hw"]
        height, width = stats["target_hw"]
        fitted = np.array(fit_portrait(image, height, width, "reference"))
        check_statistics(fitted, stats, golden)
        if exact:
            assert hashlib.sha256(fitted.tobytes()).hexdigest() == stats["sha256"]
        name = f"mean8/{Path(stats['image']).stem}_{stats['size'].replace('*', 'x')}"
        means = reduce(fitted.astype(np.float64), "(h 8) (w 8) c -> h w c", "mean")
        assert_nearly(means, golden.tensors[name].numpy(), golden)


def check_statistics(fitted: np.ndarray[Any, Any], stats: dict[str, Any], golden: Golden) -> None:
    height, width, _ = fitted.shape
    assert_nearly(fitted.mean((0, 1)), np.array(stats["mean_rgb"]), golden)
    assert_nearly(fitted.std((0, 1)), np.array(stats["std_rgb"]), golden)
    assert_nearly(fitted[0, 0], np.array(stats["pixel_0_0"]), golden)
    assert_nearly(fitted[height // 2, width // 2], np.array(stats["pixel_center"]), golden)
    assert (fitted == 0).all((0, 2)).sum() == stats["black_columns"]
    assert (fitted == 0).all((1, 2)).sum() == stats["black_rows"]


def same_decoder(golden: Golden) -> bool:
    """Whether this machine's JPEG decoder gives the golden's very bytes; others may differ by one."""
    for name in small_names(golden):
        wanted = golden.tensors[f"small/{name}/uint8"].numpy()
        height, width, _ = wanted.shape
        if not np.array_equal(
            np.array(fit_portrait(picture(golden, filename_of(golden, name)), height, width, "reference")), wanted
        ):
            return False
    return True


def filename_of(golden: Golden, name: str) -> str:
    """The picture that ``small/name`` was made from."""
    filenames: set[str] = {row["image"] for row in golden.meta["target_sizes"]}
    return next(filename for filename in filenames if Path(filename).stem == name)


def small_names(golden: Golden) -> list[str]:
    return sorted({key.split("/")[1] for key in golden.tensors if key.startswith("small/")})
