"""The drift of a roll-out: its arithmetic, and bounds on what the fast ways may change."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from live_avatar.config import TINY, Preset
from live_avatar.model.compiled_step import CompiledStep, StepForward
from live_avatar.model.dit import CausalDiT
from live_avatar.model.fp8 import FP8, quantise
from live_avatar.model.kv_cache import KVWindow
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.drift import Drift, drift, reorder_reduction, signal_over_error_db, synthetic_session
from live_avatar.streaming.schedule import inference_schedule
from tests.model.random_dit import CONFIG, random_dit
from tests.streaming.small_pipeline import DRAWS, GEOMETRY, RULES

SIZE = (GEOMETRY.height, GEOMETRY.width)
SMALL = replace(
    TINY,
    dit=CONFIG,
    stream=RULES,
    speech=replace(TINY.speech, hidden_size=CONFIG.audio_dim, num_layers=CONFIG.audio_states - 1),
    text=replace(TINY.text, dim=CONFIG.text_dim),
)
BLOCKS = 8


def denoiser(model: CausalDiT, forward: StepForward | None = None, kv_dtype: torch.dtype | None = None) -> Denoiser:
    steps = range(RULES.steps)
    return Denoiser(model, RULES, inference_schedule(RULES.steps), steps, DRAWS, forward=forward, kv_dtype=kv_dtype)


def rolled_out(side: Denoiser, preset: Preset = SMALL) -> list[torch.Tensor]:
    return list(synthetic_session(side, preset, SIZE, BLOCKS))


def test_decibels() -> None:
    signal = torch.ones(10)
    assert signal_over_error_db(0.9 * signal, signal) == pytest.approx(20, abs=1e-3)
    assert signal_over_error_db(signal, signal) == math.inf
    grown = Drift((40.0, 40.0, 35.0, 30.0, 30.0, 30.0, 20.0, 21.0))
    assert (grown.median_db, grown.worst_db, grown.growth_db) == (30.0, 20.0, 19.5)


def test_the_same_side_twice_does_not_drift() -> None:
    one, other = (rolled_out(denoiser(random_dit())) for _ in range(2))
    assert drift(one, other).worst_db == math.inf


def test_another_order_of_summation_is_rounding_and_8_bits_are_more() -> None:
    exact = rolled_out(denoiser(random_dit()))
    split, eight = random_dit(), random_dit()
    reorder_reduction(split)
    quantise(eight, CONFIG)
    rounding, linear = (drift(rolled_out(denoiser(model)), exact) for model in (split, eight))
    kv = drift(rolled_out(denoiser(random_dit(), kv_dtype=FP8)), exact)
    assert 80 < rounding.worst_db < math.inf
    assert 15 < linear.worst_db < rounding.worst_db
    assert 15 < kv.worst_db < rounding.worst_db


def test_8_bit_keys_and_values_are_reserved_as_such() -> None:
    side = denoiser(random_dit(), kv_dtype=FP8)
    rolled = synthetic_session(side, SMALL, SIZE, 1)
    next(rolled)
    session = side.open(0, GEOMETRY)
    text = 2 * CONFIG.num_layers * CONFIG.text_len * CONFIG.dim * 4
    assert side.session_nbytes(GEOMETRY) == session.nbytes + text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_compiled_roll_out_in_bfloat16_differs_by_no_more_than_rounding() -> None:
    """Rounding is what another order of summation changes over 8 blocks of 4 steps."""
    model = random_dit()
    model.to(torch.bfloat16)
    split = copy.deepcopy(model)
    reorder_reduction(split)
    step = CompiledStep(model)
    step.warm_up([KVWindow(GEOMETRY, latents_per_block=3, window_blocks=RULES.window_blocks, dtype=torch.bfloat16)])
    exact = rolled_out(denoiser(model))
    rounding, compiled = drift(rolled_out(denoiser(split)), exact), drift(rolled_out(denoiser(model, step)), exact)
    assert compiled.median_db > rounding.median_db - 1
    assert compiled.worst_db > rounding.worst_db - 3
