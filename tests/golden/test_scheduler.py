"""Noise levels and the Euler step equal the reference."""

import re

import pytest
import torch
from torch import Tensor

from live_avatar.streaming.schedule import (
    TIMESTEP_SCALE,
    inference_schedule,
    shifted_sigma,
    training_sigmas,
)

from .conftest import Golden

pytestmark = pytest.mark.golden_kind("scheduler")


def numbered(golden: Golden, pattern: str) -> list[int]:
    """The numbers that ``pattern`` captures in the tensors' names."""
    found = (re.fullmatch(pattern, name) for name in golden.tensors)
    return sorted(int(match[1]) for match in found if match)


def checked_names(golden: Golden) -> set[str]:
    """Every tensor that a test of this file compares."""
    schedules = ["train", *(f"steps_{n}" for n in numbered(golden, r"steps_(\d+)/sigmas"))]
    schedules += [f"training_shift{n}" for n in numbered(golden, r"training_shift(\d+)/sigmas")]
    names = {f"{schedule}/{kind}" for schedule in schedules for kind in ("sigmas", "timesteps")}
    names |= {f"step/{kind}_{n}" for kind in "xv" for n in numbered(golden, rf"step/{kind}_(\d+)")}
    return names | {name for name in golden.tensors if name.startswith("not_used/")}


def test_nothing_in_the_golden_is_left_unchecked(golden: Golden) -> None:
    assert golden.tensors.keys() == golden.meta["tensors"].keys() == checked_names(golden)
    assert numbered(golden, r"steps_(\d+)/sigmas")


def test_inference_levels(golden: Golden) -> None:
    for steps in numbered(golden, r"steps_(\d+)/sigmas"):
        schedule = inference_schedule(steps)
        golden.close(torch.tensor([*schedule.sigmas, 0.0]), f"steps_{steps}/sigmas")
        timesteps = torch.tensor([schedule.timestep(step) for step in range(steps)])
        golden.close(timesteps, f"steps_{steps}/timesteps")


def test_training_levels(golden: Golden) -> None:
    shifts = {"train": golden.meta["config"]["shift"]}
    shifts |= {f"training_shift{shift}": shift for shift in numbered(golden, r"training_shift(\d+)/sigmas")}
    for name, shift in shifts.items():
        sigmas = training_sigmas(shift, golden.meta["config"]["num_train_timesteps"])
        golden.close(sigmas, f"{name}/sigmas")
        golden.close(TIMESTEP_SCALE * sigmas, f"{name}/timesteps")


def test_euler_steps(golden: Golden) -> None:
    steps = len(numbered(golden, r"step/v_(\d+)"))
    assert steps == golden.meta["config"].get("steps", 4)
    schedule, latent = inference_schedule(steps), golden.tensors["step/x_0"]
    for step in range(steps):
        latent = schedule.advance(latent, golden.tensors[f"step/v_{step}"], step)
        golden.close(latent, f"step/x_{step + 1}")


def test_the_plain_rule_is_not_ours(golden: Golden) -> None:
    """Shifting once gives the values kept for comparison; the released model runs on others."""
    for steps, shift in _plain_rules(golden):
        plain = golden.tensors[f"not_used/wan_sampling_sigmas_{steps}_shift{shift}"]
        once = shifted_sigma(1 - torch.arange(steps, dtype=torch.float64) / steps, shift).float()
        torch.testing.assert_close(plain, once, rtol=1e-5, atol=1e-5)
        assert _distance(torch.tensor(inference_schedule(steps).sigmas), plain) > 0.01


def _plain_rules(golden: Golden) -> list[tuple[int, int]]:
    found = (re.fullmatch(r"not_used/wan_sampling_sigmas_(\d+)_shift(\d+)", name) for name in golden.tensors)
    return [(int(match[1]), int(match[2])) for match in found if match]


def _distance(some: Tensor, others: Tensor) -> float:
    return float((some - others).abs().max())
