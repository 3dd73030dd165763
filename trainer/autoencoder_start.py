"""How an autoencoder begins: weights with which a picture survives all layers, and its twin for single pictures.

With independent random taps in time the first frame reaches the deeper layers in other channels than the frames
after it, and training comes to a stop; so every convolution starts with its newest tap alone, and those that change
the rate in time start as the identity.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from live_avatar.model.vae import VAE
from live_avatar.model.vae_layers import CausalConv, Downsample, Pointwise, Residual, SpatialConv, TimeWalk, Upsample

RESIDUAL_GAIN = 0.1
"""Of the second convolution of each residual: at first the shortcuts carry the signal."""
PICTURE_GAIN = 0.3
LOG_VARIANCE = -5.0
"""Where the log variance of the latents starts: with noise of one deviation nothing is ever learnt."""
LOG_VARIANCE_GAIN = 0.01


@torch.no_grad()
def initialise(vae: VAE, seed: int) -> None:
    """Draws every weight anew."""
    rng = torch.Generator().manual_seed(seed)
    for layer in vae.modules():
        if isinstance(layer, CausalConv | SpatialConv | Pointwise):
            _unit_gain(layer, rng)
    for layer in vae.modules():
        if isinstance(layer, Residual):
            layer.conv2.weight.mul_(RESIDUAL_GAIN)
        if isinstance(layer, Downsample | Upsample) and layer.time_conv is not None:
            _identity(layer.time_conv)
    for middle in (vae.encoder.middle, vae.decoder.middle):
        middle.attention.proj.weight.zero_()
    vae.decoder.head.weight.mul_(PICTURE_GAIN)
    latents = vae.config.latent_channels
    vae.to_moments.weight[latents:].mul_(LOG_VARIANCE_GAIN)
    vae.to_moments.bias[latents:].fill_(LOG_VARIANCE)


def _unit_gain(layer: CausalConv | SpatialConv | Pointwise, rng: torch.Generator) -> None:
    """Outputs as large as inputs; of several taps in time the newest alone."""
    weight = layer.weight
    newest = weight[:, :, -1:] if isinstance(layer, CausalConv) else weight
    fan_in = math.prod(newest.shape[1:])
    drawn = torch.randn(newest.shape, generator=rng) / math.sqrt(fan_in)
    weight.zero_()
    newest.copy_(drawn)
    layer.bias.zero_()


def _identity(layer: CausalConv) -> None:
    """The newest frame as it is, in every group of outputs."""
    outputs, inputs = layer.weight.shape[:2]
    layer.weight.zero_()
    layer.weight[:, :, -1, 0, 0] = torch.eye(inputs).repeat(outputs // inputs, 1)


class StillConv(nn.Module):
    """The newest tap of a causal convolution, whose weight it shares: all that acts on a video of one frame."""

    def __init__(self, conv: CausalConv) -> None:
        super().__init__()
        self.weight, self.bias, self.width = conv.weight, conv.bias, conv.width

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, 1, H, W, C] to [B, 1, H, W, C']."""
        pictures = x[:, 0].movedim(-1, 1)
        pictures = F.conv2d(pictures, self.weight[:, :, -1], self.bias, padding=self.width // 2)
        return pictures.movedim(1, -1)[:, None]


def still_twin(vae: VAE) -> VAE:
    """The same network on the same parameters for single frames, without the two thirds of its work on zeros."""
    shared = {id(parameter): parameter for parameter in vae.parameters()}
    twin = copy.deepcopy(vae, shared)
    for layer in list(twin.modules()):
        if isinstance(layer, Downsample | Upsample):
            layer.time_conv = None
        for name, child in list(layer.named_children()):
            if isinstance(child, CausalConv):
                setattr(layer, name, StillConv(child))
    return twin
