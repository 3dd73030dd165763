"""Random numbers of a session: pinned, addressable in any order, and recorded ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from live_avatar.model.kv_cache import rolling_reference_position
from live_avatar.streaming.rng import REFERENCE_STAYS, PhiloxRng, RecordedRng

DRAWS = PhiloxRng((4, 30))
SHAPE = (4, 3, 8, 10)


def test_numbers_are_pinned() -> None:
    """A change here changes every session's replay: of our own counters, or of the generator underneath."""
    noise = DRAWS.noise(7, 3, (4,))
    expected = torch.tensor([-0.5519058108329773, 1.3011293411254883, -0.629826009273529, -1.4921326637268066])
    assert torch.equal(noise, expected)
    assert [DRAWS.reference_offset(7, block, step) for block in range(3) for step in range(4)] == [
        16, 9, 10, 24, 12, 18, 6, 21, 23, 28, 10, 13,
    ]  # fmt: skip
    late = 75_000
    assert DRAWS.noise(2**63 + 5, late, (2,)).tolist() == [0.17529790103435516, -1.4473059177398682]
    assert DRAWS.reference_offset(2**63 + 5, late, 3) == 12


@given(order=st.permutations(range(4)), seed=st.integers(0, 2**64 - 1))
def test_order_does_not_matter(order: list[int], seed: int) -> None:
    forward = {block: (DRAWS.noise(seed, block, (8,)), DRAWS.reference_offset(seed, block, 1)) for block in range(4)}
    for block in order:
        noise, reference_offset = forward[block]
        assert torch.equal(DRAWS.noise(seed, block, (8,)), noise)
        assert DRAWS.reference_offset(seed, block, 1) == reference_offset


def test_every_session_and_block_has_its_own_noise() -> None:
    drawn = {tuple(DRAWS.noise(seed, block, (4,)).tolist()) for seed in range(20) for block in range(20)}
    assert len(drawn) == 400


def test_noise_is_standard_normal_float32() -> None:
    noise = DRAWS.noise(1, 2, (100_000,))
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert DRAWS.noise(1, 2, SHAPE).shape == SHAPE


def test_distances_fill_the_range_evenly_to_both_ends() -> None:
    drawn = torch.tensor([DRAWS.reference_offset(3, block, step) for block in range(2000) for step in range(2)])
    assert set(drawn.tolist()) == set(range(4, 31))
    counts = torch.bincount(drawn)[4:]
    expected = len(drawn) / 27
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_equal_bounds_fix_the_distance() -> None:
    assert {PhiloxRng((30, 30)).reference_offset(1, block, 0) for block in range(50)} == {30}


def test_a_reference_can_stay_where_the_prefill_put_it() -> None:
    reference_offset = PhiloxRng(REFERENCE_STAYS).reference_offset(1, 10_000_000, 3)
    assert {rolling_reference_position(frame, reference_offset, 30) for frame in (0, 100, 30_000_000)} == {30}


def test_replay_gives_what_was_recorded_and_lends_it_to_nobody() -> None:
    noise, reference_offset = (
        torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[4, 5], [6, 7]]),
    )
    replay = RecordedRng(noise, reference_offset)
    taken = replay.noise(99, 1, SHAPE)
    assert torch.equal(taken, noise[1])
    assert [replay.reference_offset(99, block, step) for block in range(2) for step in range(2)] == [4, 5, 6, 7]
    taken.zero_()
    assert torch.equal(replay.noise(0, 1, SHAPE), noise[1])
    assert noise[1].any()


@pytest.mark.parametrize(("block", "shape"), [(2, SHAPE), (0, (4, 3, 8, 8))])
def test_replay_of_what_was_not_recorded_is_refused(block: int, shape: tuple[int, ...]) -> None:
    replay = RecordedRng(torch.zeros(2, *SHAPE), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"not block {block} of \({', '.join(map(str, shape))}\)"):
        replay.noise(0, block, shape)
