"""8-bit linear layers: what is rounded, how much, and what is left alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from live_avatar.config import S2V_14B
from live_avatar.model.dit import CausalDiT
from live_avatar.model.fp8 import FP8, FP8Linear, linear_layers, multiplied, multiplied_in_float32, quantise, rounded
from tests.model.random_dit import CONFIG, Clip, random_dit

HALF_STEP = 2**-4
"""Largest relative error of rounding to 3 bits of mantissa."""


def linear(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).requires_grad_(False)


def test_rounding_is_exact_to_half_a_step_and_rows_do_not_mix() -> None:
    values = torch.randn(5, 64) * torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6])[:, None]
    eight, scale = rounded(values)
    assert eight.dtype == FP8
    error = (eight.float() * scale - values).abs()
    smallest = scale * 2**-6  # below it numbers are subnormal: their error is absolute
    assert (error <= torch.maximum(HALF_STEP * values.abs(), HALF_STEP * smallest)).all()
    assert torch.equal(rounded(torch.zeros(2, 8))[0].float(), torch.zeros(2, 8))


def test_the_layer_is_the_product_of_the_rounded_numbers_written_out() -> None:
    layer = linear(32, 16)
    x = torch.randn(2, 3, 32)
    (values, scale), (weight, weight_scale) = rounded(x.flatten(0, 1)), rounded(layer.weight)
    exact = (values.double() * scale) @ (weight.double() * weight_scale).T + layer.bias
    torch.testing.assert_close(FP8Linear(layer)(x).double(), exact.view(2, 3, 16), rtol=1e-5, atol=1e-5)
    near = (FP8Linear(layer)(x) - layer(x)).norm() / layer(x).norm()
    assert near < HALF_STEP


def test_only_what_bears_much_and_feels_little_is_rounded() -> None:
    with torch.device("meta"):
        model = CausalDiT(S2V_14B.dit)
    layers = list(linear_layers(model, S2V_14B.dit))
    assert len(layers) == 38 * 8
    weights = sum(one.weight.numel() for _, _, one in layers)
    assert 0.65 < weights / sum(p.numel() for p in model.parameters()) < 0.75
    kept = ("head", "time_embedding", "text_embedding", "patch_embedding", "layers.0.", "layers.39.")
    names = {id(module): name for name, module in model.named_modules()}
    assert not any(names[id(one)].startswith(kept) or ".audio." in names[id(one)] for _, _, one in layers)


def test_a_rounded_model_streams_close_to_its_twin() -> None:
    clip = Clip()
    twin, model = random_dit(), random_dit()
    assert quantise(model, CONFIG) > 0
    expected, actual = (clip.streamed(each, clip.latent()) for each in (twin, model))
    error = (actual - expected).norm() / expected.norm()
    assert 0 < error < HALF_STEP


def test_a_model_of_two_layers_has_none_to_round() -> None:
    with pytest.raises(ValueError, match="none that may be rounded"):
        quantise(nn.Module(), replace(CONFIG, num_layers=2, audio_layers=(0,)))


@pytest.mark.gpu
def test_the_units_of_a_gpu_give_the_same_product() -> None:
    layer, x = linear(256, 512).cuda(), torch.randn(64, 256, device="cuda")
    operands = (*rounded(x), *rounded(layer.weight))
    slow = multiplied_in_float32(*operands)
    torch.testing.assert_close(multiplied(*operands).float(), slow, rtol=2**-7, atol=2**-7 * float(slow.abs().max()))
