"""Noise levels, the Euler step, and who owns which step."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from live_avatar.config import MAX_STEPS, TINY
from live_avatar.streaming.schedule import inference_schedule, shifted_sigma, training_sigmas
from tests.streaming.partitions import split_steps

RELEASED = {
    4: (1.0, 0.857692307692308, 0.602150537634409, 0.008928571428571),
    3: (1.0, 0.751121076233184, 0.008928571428571),
    2: (1.0, 0.008928571428571),
}
"""Noise levels of the released model, digit by digit (spec 2.2)."""


@pytest.mark.parametrize("steps", range(1, MAX_STEPS + 1))
def test_a_schedule_goes_from_noise_to_clean(steps: int) -> None:
    schedule = inference_schedule(steps)
    assert schedule.steps == steps
    assert schedule.timestep(0) == 1000
    assert all(schedule.delta(step) < 0 for step in range(steps))
    assert sum(schedule.delta(step) for step in range(steps)) == pytest.approx(-1)
    assert [schedule.timestep(step) for step in range(steps)] == [1000 * sigma for sigma in schedule.sigmas]


@pytest.mark.parametrize("steps", sorted(RELEASED))
def test_the_rule_gives_the_released_levels(steps: int) -> None:
    assert inference_schedule(steps).sigmas == RELEASED[steps]


@pytest.mark.parametrize("steps", range(1, MAX_STEPS + 1))
def test_levels_are_spaced_and_shifted_as_the_reference_does(steps: int) -> None:
    """The reference's arithmetic: its lowest level has been shifted, then all are spaced evenly and shifted again."""
    once = shifted_sigma(torch.tensor(0.001, dtype=torch.float32), 3)
    spaced = np.linspace(1000.0, 1000.0 * once.item(), steps) / 1000
    twice = torch.from_numpy(3 * spaced / (1 + 2 * spaced)).float()
    torch.testing.assert_close(torch.tensor(inference_schedule(steps).sigmas), twice, rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("steps", [0, -4, MAX_STEPS + 1])
def test_a_number_of_steps_out_of_range_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"no schedule of {steps} steps; 1 to {MAX_STEPS}"):
        inference_schedule(steps)
    with pytest.raises(ValueError, match=f"steps={steps} must lie in 1..{MAX_STEPS}"):
        replace(TINY.stream, steps=steps)


def test_a_perfect_velocity_leads_to_the_clean_latent() -> None:
    clean, noise = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    schedule, latent = inference_schedule(4), noise
    for step in range(4):
        latent = schedule.advance(latent, noise - clean, step)
        following = schedule.sigmas[step + 1] if step < 3 else 0
        torch.testing.assert_close(latent, following * noise + (1 - following) * clean, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_the_product_is_rounded_and_the_sum_is_not() -> None:
    latent, velocity = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    schedule = inference_schedule(4)
    rounded_deltas = (-0.142578125, -0.255859375, -0.59375, -0.0089111328125)
    for step, delta in enumerate(rounded_deltas):
        product = (delta * velocity.float()).bfloat16()
        expected = (latent.float() + product.float()).bfloat16()
        assert torch.equal(schedule.advance(latent, velocity, step), expected)


def test_the_last_step_can_be_joined_to_the_one_before() -> None:
    full = inference_schedule(4)
    short = full.without_last_step()
    assert short.steps == 3
    assert short.sigmas == full.sigmas[:3]
    assert short.delta(2) == pytest.approx(full.delta(2) + full.delta(3))


def test_shift_keeps_the_ends_and_moves_the_middle_up() -> None:
    sigma = torch.linspace(0, 1, 11, dtype=torch.float64)
    shifted = shifted_sigma(sigma, 5)
    assert shifted[0] == 0
    assert shifted[-1] == 1
    assert (shifted[1:-1] > sigma[1:-1]).all()
    assert torch.equal(shifted_sigma(sigma, 1), sigma)


def test_training_levels_fall_from_one_and_never_reach_zero() -> None:
    sigmas = training_sigmas(shift=5, steps=50)
    assert sigmas.shape == (50,)
    assert sigmas[0] == 1
    assert sigmas[-1] > 0
    assert (sigmas.diff() < 0).all()


@given(steps=st.integers(1, 12), data=st.data())
def test_slices_cover_all_steps_once_and_evenly(steps: int, data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, steps))
    slices = split_steps(steps, stages)
    assert [step for owned in slices for step in owned] == list(range(steps))
    sizes = [len(owned) for owned in slices]
    assert len(sizes) == stages
    assert all(0 <= longer - shorter <= 1 for longer, shorter in pairwise(sizes))
    assert sizes[0] - sizes[-1] <= 1


@pytest.mark.parametrize(("steps", "stages"), [(4, 0), (4, 5), (4, -1), (0, 1)])
def test_a_split_with_an_idle_stage_is_refused(steps: int, stages: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} steps cannot be split over {stages} stages"):
        split_steps(steps, stages)
