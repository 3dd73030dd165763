"""Rotations: against complex multiplication, at the specified positions, and far from zero."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from live_avatar.config import S2V_14B, DiTConfig
from live_avatar.model.rope import (
    Rotation,
    grid_rotation,
    join,
    latent_rotation,
    motion_rotation,
    pairs_per_axis,
)
from tests.model.random_dit import CONFIG

CPU = torch.device("cpu")
FAST = settings(max_examples=25, deadline=None)
TEN_HOURS_FRAMES = 3 * 75_000


def rotation_at(config: DiTConfig, frame: int, row: int = 0, column: int = 0) -> Rotation:
    axes = (torch.tensor([position]) for position in (frame, row, column))
    return grid_rotation(config, *axes)


def turned(config: DiTConfig, x: Tensor, frame: int, row: int, column: int) -> Tensor:
    """The specification as it is written: one complex number per pair of channels, in complex128."""
    angles: list[float] = []
    for position, pairs in zip((frame, row, column), pairs_per_axis(config.head_dim), strict=True):
        angles += [position * 10_000.0 ** (-2 * pair / (2 * pairs)) for pair in range(pairs)]
    channels = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    factors = torch.polar(torch.ones(len(angles), dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))
    return torch.view_as_real(channels * factors).flatten(-2).float()


def frequency(pair: int, pairs: int) -> float:
    return float(10_000.0 ** (-pair / pairs))


def positions(rotation: Rotation, axis: int) -> list[int]:
    """Integer positions of all tokens along one axis, read off the slowest pair of that axis."""
    sizes = pairs_per_axis(S2V_14B.dit.head_dim)
    slowest = sum(sizes[: axis + 1]) - 1
    angles = torch.atan2(rotation.sin[:, slowest], rotation.cos[:, slowest])
    exact = angles.double() / frequency(sizes[axis] - 1, sizes[axis])
    assert (exact - exact.round()).abs().max() < 0.01
    return [int(position) for position in exact.round()]


def test_pairs_of_the_specification() -> None:
    assert pairs_per_axis(128) == (22, 21, 21)


@given(half=st.integers(3, 100))
def test_pairs_use_up_the_head(half: int) -> None:
    frame, row, column = pairs_per_axis(2 * half)
    assert frame + row + column == half
    assert row == column <= frame <= row + 2


@FAST
@given(frame=st.integers(-19, TEN_HOURS_FRAMES), row=st.integers(0, 50), column=st.integers(0, 50))
def test_rotation_is_complex_multiplication(frame: int, row: int, column: int) -> None:
    x = torch.randn(1, 1, 2, CONFIG.head_dim, generator=torch.Generator().manual_seed(0))
    rotated = rotation_at(CONFIG, frame, row, column).rotate(x)
    torch.testing.assert_close(rotated, turned(CONFIG, x, frame, row, column), rtol=0, atol=1e-6)


@FAST
@given(first=st.integers(0, 40), second=st.integers(0, 40), shift=st.integers(0, TEN_HOURS_FRAMES))
def test_only_the_difference_of_positions_counts(first: int, second: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 1, 1, CONFIG.head_dim, generator=generator)
    near = rotation_at(CONFIG, first).rotate(q) * rotation_at(CONFIG, second).rotate(k)
    far = rotation_at(CONFIG, first + shift).rotate(q) * rotation_at(CONFIG, second + shift).rotate(k)
    assert math.isclose(near.sum().item(), far.sum().item(), abs_tol=1e-5)


def test_ten_hours_in_the_angles_are_still_exact() -> None:
    """Against 80-bit arithmetic; float32 angles would be wrong in the second digit."""
    rotation = rotation_at(S2V_14B.dit, TEN_HOURS_FRAMES)
    pairs = pairs_per_axis(S2V_14B.dit.head_dim)[0]
    exponents = np.arange(pairs, dtype=np.longdouble) / pairs
    angles = np.longdouble(TEN_HOURS_FRAMES) * np.longdouble(10_000) ** -exponents
    np.testing.assert_allclose(rotation.cos[0, :pairs].numpy(), np.cos(angles).astype(np.float64), atol=1e-7)
    np.testing.assert_allclose(rotation.sin[0, :pairs].numpy(), np.sin(angles).astype(np.float64), atol=1e-7)


def test_negative_positions_turn_the_other_way() -> None:
    past, future = rotation_at(CONFIG, -7), rotation_at(CONFIG, 7)
    frame_pairs = pairs_per_axis(CONFIG.head_dim)[0]
    assert torch.equal(past.cos, future.cos)
    assert torch.equal(past.sin[:, :frame_pairs], -future.sin[:, :frame_pairs])


def test_tokens_go_frame_then_row_then_column() -> None:
    rotation = latent_rotation(S2V_14B.dit, torch.tensor([5, 6]), 4, 6)
    assert positions(rotation, 0) == [5] * 6 + [6] * 6
    assert positions(rotation, 1) == [0, 0, 0, 1, 1, 1] * 2
    assert positions(rotation, 2) == [0, 1, 2] * 4


def test_motion_positions_of_the_specification() -> None:
    height, width = 88, 48
    rotation = motion_rotation(S2V_14B.dit, height, width, CPU)
    nearest, pair, oldest = 44 * 24, 22 * 12, 11 * 6
    frames, rows = positions(rotation, 0), positions(rotation, 1)
    assert frames == [-1] * nearest + [-3] * pair + [-19] * oldest + [-14] * oldest + [-9] * oldest + [-4] * oldest
    assert rows[nearest : nearest + pair : 12][:3] == [0, 2, 4]
    assert rows[nearest + pair : nearest + pair + oldest : 6] == [0, 4, 8, 12, 17, 21, 25, 30, 34, 38, 43]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 10), (10, 14), (14, 18)])
def test_there_is_a_rotation_for_every_sink_token(height: int, width: int) -> None:
    motion = motion_rotation(CONFIG, height, width, CPU)
    reference = CONFIG.tokens_per_latent(height, width)
    assert len(motion.cos) == len(motion.sin) == CONFIG.sink_tokens(height, width) - reference


def test_join_keeps_the_order() -> None:
    parts = [rotation_at(CONFIG, frame) for frame in (3, 1, 2)]
    joined = join(*parts)
    for index, part in enumerate(parts):
        assert torch.equal(joined.cos[index], part.cos[0])
        assert torch.equal(joined.sin[index], part.sin[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_keeps_type_and_length_of_vectors(dtype: torch.dtype) -> None:
    x = torch.randn(2, 1, 3, CONFIG.head_dim, generator=torch.Generator().manual_seed(2)).to(dtype)
    rotated = rotation_at(CONFIG, 1234, 5, 6).rotate(x)
    assert rotated.dtype == dtype
    torch.testing.assert_close(rotated.float().norm(dim=-1), x.float().norm(dim=-1), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_complex_product_equals_the_written_out_ones(dtype: torch.dtype) -> None:
    """The twin: eager and compiled forwards rotate by different operators, and compiled ones on CPU and GPU."""
    rotation = latent_rotation(CONFIG, torch.arange(5), 8, 12)
    pairs = torch.randn(2, len(rotation.cos), 3, rotation.cos.shape[1], 2).to(dtype).float()
    for written_out in (rotation._stacked, rotation._exchanged):
        torch.testing.assert_close(rotation._in_one_operator(pairs), written_out(pairs), rtol=0, atol=1e-6)
