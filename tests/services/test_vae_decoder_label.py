"""The visible label: drawn into the first frames and after breaks, in its corner, and nowhere else."""

import asyncio

import numpy as np
import pytest
import torch
from pydantic import SecretStr, ValidationError

from live_avatar.services.vae_decoder.label import SessionLabel
from live_avatar.services.vae_decoder.settings import LabelSettings, WatermarkSettings
from tests.services.test_vae_decoder_mark import sent

FPS = 25
TEXT = "AI generated"


def label(first: int = 0, **settings: object) -> SessionLabel:
    return SessionLabel(LabelSettings.model_validate({"text": TEXT, "seconds": 1, **settings}), FPS, first)


def grey(frames: int = 12, height: int = 384, width: int = 704) -> torch.Tensor:
    return torch.full((frames, height, width, 3), 128, dtype=torch.uint8)


def labelled(one: SessionLabel, first: int) -> int:
    """How many of 12 frames from ``first`` on show it."""
    changed = (one.draw(grey(), first) != grey()).flatten(1).any(1)
    assert changed.tolist() == sorted(changed.tolist(), reverse=True)
    return int(changed.sum())


def test_it_is_shown_for_its_time_from_the_first_frame_of_a_decoder_on() -> None:
    assert [labelled(label(), first) for first in (0, 12, 24, 36)] == [12, 12, 1, 0]
    assert [labelled(label(first=480), first) for first in (480, 504, 516)] == [12, 1, 0]


def test_it_is_shown_again_after_a_long_pause_and_not_after_a_short_one() -> None:
    one, seen = label(break_seconds=2), []
    idles = [False] * 3 + [True] * 2 + [False] * 2 + [True] * 5 + [False] * 3
    for block, idle in enumerate(idles):
        one.note_block(12 * block, idle=idle)
        seen.append(labelled(one, 12 * block))
    assert seen == [12, 12, 1] + [0] * 9 + [12, 12, 1]


@pytest.mark.parametrize("corner", ["top-right", "top-left", "bottom-right", "bottom-left"])
@pytest.mark.parametrize("size", [(384, 704), (64, 64)])
def test_it_is_legible_in_its_corner_and_leaves_the_rest_alone(corner: str, size: tuple[int, int]) -> None:
    before = grey(1, *size)
    after = label(corner=corner).draw(before, 0)
    changed = (after != before).any(3)[0].numpy()
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    middle = (rows.mean() / size[0], columns.mean() / size[1])
    assert (middle[0] < 0.5, rows.size < size[0] / 3) == (corner.startswith("top"), True)
    if size[1] > 500:
        assert (middle[1] < 0.5) == corner.endswith("left")
    shown = after[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert int(shown.max()) - int(shown.min()) > 100


def test_the_decoder_draws_it_before_the_mark() -> None:
    mark = WatermarkSettings(key=SecretStr("a secret of enough bytes"), deployment=77)
    plain, marked = asyncio.run(sent(WatermarkSettings())), asyncio.run(sent(mark))
    both = asyncio.run(sent(mark, LabelSettings(text=TEXT)))
    assert len(plain) == len(both)
    assert all(one != other for one, other in zip(marked, both, strict=True))
    assert asyncio.run(sent(WatermarkSettings(), LabelSettings(text=""))) == plain


@pytest.mark.parametrize("fault", [{"text": "x" * 41}, {"corner": "middle"}, {"seconds": 0}, {"break_seconds": -1}])
def test_settings_that_no_label_can_have_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LabelSettings.model_validate(fault)
