"""The autoencoder once more, slowly: whole sequences, 3-D convolutions, no cache, no code shared with the fast one.

Works on the public state dict.  Activations are [B, C, T, H, W]; the past before the first frame is zeros.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def encode(weights: Weights, video: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Video [B, 3, T, H, W] to normalised latents."""
    x = causal(weights, "encoder.conv1", video)
    for index in part_indices(weights, "encoder.downsamples."):
        key = f"encoder.downsamples.{index}"
        x = down(weights, key, x) if f"{key}.resample.1.weight" in weights else residual(weights, key, x)
    x = head(weights, "encoder", middle(weights, "encoder", x))
    mu = causal(weights, "conv1", x).chunk(2, dim=1)[0]
    return (mu - mean.view(-1, 1, 1, 1)) / std.view(-1, 1, 1, 1)


def decode(weights: Weights, latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalised latents [B, C, F, h, w] to video, not clamped."""
    x = causal(weights, "conv2", latents * std.view(-1, 1, 1, 1) + mean.view(-1, 1, 1, 1))
    x = middle(weights, "decoder", causal(weights, "decoder.conv1", x))
    for index in part_indices(weights, "decoder.upsamples."):
        key = f"decoder.upsamples.{index}"
        x = up(weights, key, x) if f"{key}.resample.1.weight" in weights else residual(weights, key, x)
    return head(weights, "decoder", x)


def part_indices(weights: Weights, prefix: str) -> list[int]:
    return sorted({int(key[len(prefix) :].split(".")[0]) for key in weights if key.startswith(prefix)})


def causal(weights: Weights, key: str, x: Tensor) -> Tensor:
    weight = weights[f"{key}.weight"]
    taps, height, width = weight.shape[2:]
    padded = F.pad(x, (width // 2, width // 2, height // 2, height // 2, taps - 1, 0))
    return F.conv3d(padded, weight, weights[f"{key}.bias"])


def norm(weights: Weights, key: str, x: Tensor) -> Tensor:
    gamma = weights[f"{key}.gamma"].flatten().view(-1, 1, 1, 1)
    return F.normalize(x, dim=1) * float(x.shape[1] ** 0.5) * gamma


def residual(weights: Weights, key: str, x: Tensor) -> Tensor:
    h = causal(weights, f"{key}.residual.2", F.silu(norm(weights, f"{key}.residual.0", x)))
    h = causal(weights, f"{key}.residual.6", F.silu(norm(weights, f"{key}.residual.3", h)))
    return h + (causal(weights, f"{key}.shortcut", x) if f"{key}.shortcut.weight" in weights else x)


def middle(weights: Weights, side: str, x: Tensor) -> Tensor:
    x = residual(weights, f"{side}.middle.0", x)
    x = torch.stack([attend(weights, f"{side}.middle.1", frame) for frame in x.unbind(2)], dim=2)
    return residual(weights, f"{side}.middle.2", x)


def attend(weights: Weights, key: str, x: Tensor) -> Tensor:
    """One frame [B, C, H, W]."""
    gamma = weights[f"{key}.norm.gamma"]
    h = F.normalize(x, dim=1) * x.shape[1] ** 0.5 * gamma
    q, k, v = F.conv2d(h, weights[f"{key}.to_qkv.weight"], weights[f"{key}.to_qkv.bias"]).flatten(2).chunk(3, dim=1)
    probabilities = (q.transpose(1, 2) @ k / x.shape[1] ** 0.5).softmax(-1)
    mixed = (v @ probabilities.transpose(1, 2)).view_as(x)
    return x + F.conv2d(mixed, weights[f"{key}.proj.weight"], weights[f"{key}.proj.bias"])


def head(weights: Weights, side: str, x: Tensor) -> Tensor:
    return causal(weights, f"{side}.head.2", F.silu(norm(weights, f"{side}.head.0", x)))


def down(weights: Weights, key: str, x: Tensor) -> Tensor:
    spatial = weights[f"{key}.resample.1.weight"][:, :, None]
    x = F.conv3d(F.pad(x, (0, 1, 0, 1)), spatial, weights[f"{key}.resample.1.bias"], stride=(1, 2, 2))
    if f"{key}.time_conv.weight" not in weights or x.shape[2] == 1:
        return x
    later = F.conv3d(x, weights[f"{key}.time_conv.weight"], weights[f"{key}.time_conv.bias"], stride=(2, 1, 1))
    return torch.cat([x[:, :, :1], later], dim=2)


def up(weights: Weights, key: str, x: Tensor) -> Tensor:
    if f"{key}.time_conv.weight" in weights and x.shape[2] > 1:
        even, odd = causal(weights, f"{key}.time_conv", x[:, :, 1:]).chunk(2, dim=1)
        x = torch.cat([x[:, :, :1], torch.stack([even, odd], dim=3).flatten(2, 3)], dim=2)
    x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest-exact")
    spatial = weights[f"{key}.resample.1.weight"][:, :, None]
    return F.conv3d(x, spatial, weights[f"{key}.resample.1.bias"], padding=(0, 1, 1))
