"""The arithmetic of memory, against the numbers of the specification and the real networks."""

import math
from dataclasses import replace

import pytest
import torch

from live_avatar import memory
from live_avatar.config import S2V_14B, TINY, Preset, VAEConfig
from live_avatar.model import fp8, lora
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.components import COMPONENTS, build_on_meta, component_shapes
from live_avatar.model.dit import CausalDiT
from live_avatar.model.vae import decoder_cache_nbytes
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.rng import PhiloxRng
from live_avatar.streaming.schedule import inference_schedule

HEIGHT, WIDTH = 384, 704


def test_key_value_sizes_of_the_specification() -> None:
    session = memory.session_memory(S2V_14B, HEIGHT, WIDTH)
    assert round(session.window / memory.GB, 1) == 10.4
    assert round(session.sink / memory.GB, 1) == 2.2
    assert round((session.window + session.sink) / memory.GB, 1) == 12.5


def test_only_the_text_is_shared_by_the_steps_of_a_stage() -> None:
    one, four = (memory.session_memory(S2V_14B, HEIGHT, WIDTH, steps) for steps in (1, 4))
    assert (four.window, four.sink, four.reference) == (4 * one.window, 4 * one.sink, 4 * one.reference)
    assert four.text == one.text


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_stage_reserves_exactly_what_is_computed(steps: int) -> None:
    model = build_on_meta(S2V_14B, "dit").bfloat16()
    assert isinstance(model, CausalDiT)
    rules, factor = S2V_14B.stream, S2V_14B.vae.spatial_factor
    stage = Denoiser(model, rules, inference_schedule(rules.steps), range(steps), PhiloxRng(rules.reference_distance))
    reserved = stage.session_nbytes(Geometry(config=S2V_14B.dit, height=HEIGHT // factor, width=WIDTH // factor))
    assert memory.session_memory(S2V_14B, HEIGHT, WIDTH, steps).total == reserved


@pytest.mark.parametrize("preset", [S2V_14B, TINY], ids=lambda preset: preset.name)
def test_parameters_are_those_of_the_network(preset: Preset) -> None:
    counted = sum(math.prod(shape) for shape in component_shapes(preset, "dit").values())
    assert memory.dit_parameters(preset.dit) == counted
    assert memory.stage_weight_bytes(preset.dit, "bf16") == 2 * counted


@pytest.mark.parametrize("preset", [S2V_14B, TINY], ids=lambda preset: preset.name)
def test_quantised_layers_are_the_adapter_targets_and_the_injector_modulations(preset: Preset) -> None:
    shapes = component_shapes(preset, "dit")
    names = COMPONENTS["dit"].names(preset)
    layers = set(lora.target_layers(build_on_meta(preset, "dit"), names, preset.lora))
    layers |= {key.removesuffix(".weight") for key in shapes if "injector_adain_layers" in key and ".weight" in key}
    assert memory.linear_parameters(preset.dit) == sum(math.prod(shapes[f"{layer}.weight"]) for layer in layers)


def test_decoder_caches_of_the_specification() -> None:
    assert memory.decoder_values_per_latent_pixel(S2V_14B.vae) == 151_328
    assert round(memory.decoder_bytes(S2V_14B, HEIGHT, WIDTH) / memory.GB, 2) == 1.28


@pytest.mark.parametrize("config", [TINY.vae, replace(TINY.vae, residual_blocks=1, multipliers=(1, 2, 2, 4))])
def test_decoder_caches_are_those_of_the_network(config: VAEConfig) -> None:
    assert 2 * memory.decoder_values_per_latent_pixel(config) * 4 * 6 == decoder_cache_nbytes(
        config, 4, 6, torch.bfloat16
    )


def test_fits_counts_whole_sessions() -> None:
    rows = {(row.stages, row.gpu_gb): row for row in memory.fits(S2V_14B, HEIGHT, WIDTH, "bf16", companions=memory.GB)}
    assert rows[4, 24].sessions == 0, "the weights alone are larger"
    for row in rows.values():
        free = row.gpu_gb * memory.GB - memory.RESERVE_BYTES - row.weights
        assert row.sessions * row.per_session <= max(free, 0) < (row.sessions + 1) * row.per_session
    assert rows[1, 80].weights - rows[4, 80].weights == memory.GB
    assert rows[1, 80].per_session > 3 * rows[4, 80].per_session
    assert rows[4, 141].sessions > rows[2, 141].sessions > rows[1, 141].sessions > 0


@pytest.mark.parametrize("preset", [S2V_14B, TINY], ids=lambda preset: preset.name)
def test_rounding_saves_what_the_rounded_layers_save(preset: Preset) -> None:
    model = build_on_meta(preset, "dit")
    bf16 = sum(2 * parameter.numel() for parameter in model.parameters())
    fp8.quantise(model, preset.dit)
    left = sum(2 * parameter.numel() for parameter in model.parameters())
    rounded = [each for each in model.modules() if isinstance(each, fp8.FP8Linear)]
    left += sum(each.weight.numel() + 4 * each.scale.numel() + 2 * each.bias.numel() for each in rounded)
    assert memory.rounding_saves(preset.dit) == bf16 - left


def test_fp8_makes_room() -> None:
    sixteen = memory.fits(S2V_14B, HEIGHT, WIDTH, "bf16", companions=0)
    eight = memory.fits(S2V_14B, HEIGHT, WIDTH, "fp8", companions=0)
    assert all(small.sessions >= large.sessions for small, large in zip(eight, sixteen, strict=True))
    assert sum(row.sessions for row in eight) > sum(row.sessions for row in sixteen)


@pytest.mark.parametrize("preset", [S2V_14B, TINY], ids=lambda preset: preset.name)
def test_the_largest_size_is_allowed_and_none_is_larger(preset: Preset) -> None:
    height, width = memory.largest_size(preset)
    assert height % 64 == width % 64 == 0
    every = [rows * columns for rows in range(64, preset.max_area, 64) for columns in range(64, preset.max_area, 64)]
    assert height * width == max(area for area in every if area <= preset.max_area)


@pytest.mark.parametrize("size", [(0, 64), (-64, 64), (64, 60)])
def test_a_size_that_is_no_picture_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]}"):
        memory.session_memory(TINY, *size)
