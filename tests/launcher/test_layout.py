"""Layouts as people write them."""

import pytest

from live_avatar.launcher.layout import parse_layout


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("4x1", [[0], [1], [2], [3]]),
        ("2x2", [[0, 1], [2, 3]]),
        ("1x4", [[0, 1, 2, 3]]),
        ("3x1", [[0], [1], [2]]),
        ("0-1/2/3", [[0, 1], [2], [3]]),
        ("0", [[0]]),
        ("1x50", [list(range(50))]),
    ],
)
def test_every_step_once(text: str, stages: list[list[int]]) -> None:
    layout = parse_layout(text)
    assert [list(steps) for steps in layout.stages] == stages
    assert layout.step_count == stages[-1][-1] + 1


@pytest.mark.parametrize("text", ["", "x", "4x", "0x4", "4x0", "four", "0-1,2", "-1", "1.5"])
def test_what_is_no_layout(text: str) -> None:
    with pytest.raises(ValueError, match="is neither STAGESxSTEPS"):
        parse_layout(text)


@pytest.mark.parametrize("text", ["1/2", "0/2", "0-2/2", "1-0", "0/0", "3-2/0"])
def test_steps_that_leave_a_gap(text: str) -> None:
    with pytest.raises(ValueError, match="in this order"):
        parse_layout(text)


@pytest.mark.parametrize(("text", "steps"), [("50x2", 100), ("51x1", 51), ("9x9", 81)])
def test_too_many_steps(text: str, steps: int) -> None:
    with pytest.raises(ValueError, match=f"has {steps} steps, at most 50"):
        parse_layout(text)
