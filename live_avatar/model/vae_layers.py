"""The layers of the video autoencoder, and the walk that carries their memory of past frames (spec 3.2 to 3.4).

Knows nothing of levels, latents, checkpoints or sessions; `vae.py` arranges the layers.

Letters: B batch, T steps in time (frames or latents), H and W rows and columns, C channels, K taps in time.
Activations are [B, T, H, W, C] with the channels innermost.  A convolution in time then is one 2-D convolution over
the K stacked taps, which is fast in every precision on every device, and the norm runs over the innermost axis.
"""

import math
from collections.abc import Iterable

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_NORM = 1e-12
"""Vectors shorter than this count as zero in the RMS norm (spec 3.2)."""


class TimeWalk:
    """One pass through the time convolutions of a network, in visiting order.

    Each convolution takes the frames it remembers and leaves those the next pass needs.  The old histories are only
    read, the new ones are gathered aside: a pass that fails on the way has changed nothing.
    """

    def __init__(self, histories: tuple[Tensor, ...]) -> None:
        self.is_start = len(histories) == 0
        """True where nothing came before: every history is empty."""
        self._old = histories
        self._new: list[Tensor] = []

    def extend(self, frames: Tensor, length: int) -> Tensor:
        """``frames`` [B, T, H, W, C] with the last ``length`` frames of the past before them.

        At the start the past is zeros.
        """
        if self.is_start:
            batch, _, height, width, channels = frames.shape
            past = frames.new_zeros(batch, length, height, width, channels)
        else:
            past = self._old[len(self._new)]
        joined = torch.cat([past, frames], dim=1)
        # A copy: a slice would keep the whole of ``joined`` alive for as long as the session lasts.
        self._new.append(joined[:, joined.shape[1] - length :].clone())
        return joined

    def finish(self) -> tuple[Tensor, ...]:
        """The histories for the next pass."""
        assert self.is_start or len(self._new) == len(self._old), "every time convolution is visited once in a pass"
        return tuple(self._new)


def _conv_weight(out_channels: int, in_channels: int, *kernel: int) -> nn.Parameter:
    """A weight [out, in, *kernel] stored with the input channels innermost, so that 2-D kernels take it as it lies."""
    weight = torch.empty(out_channels, *kernel, in_channels)
    nn.init.normal_(weight, std=1 / math.sqrt(in_channels * math.prod(kernel)))
    return nn.Parameter(weight.movedim(-1, 1))


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """2-D convolution of every picture of ``x`` [B, T, H, W, C]."""
    pictures = rearrange(x, "b t h w c -> (b t) c h w")
    pictures = F.conv2d(pictures, weight, bias, stride=stride, padding=padding)
    return rearrange(pictures, "(b t) c h w -> b t h w c", b=x.shape[0])


class RMSNorm(nn.Module):
    """Scales each pixel's channels to unit root mean square, times a learned gain (spec 3.2).

    ``trailing`` is the number of axes of size 1 behind the channels in the public shape of the gain.
    """

    def __init__(self, channels: int, trailing: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * trailing))
        self.eps = SMALLEST_NORM**2 / channels

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C], computed in float32 inside."""
        return F.rms_norm(x, x.shape[-1:], self.gamma.flatten(), eps=self.eps)


class Pointwise(nn.Module):
    """A 1x1 convolution whose weight keeps its ``trailing`` axes of size 1."""

    def __init__(self, in_channels: int, out_channels: int, trailing: int = 3) -> None:
        super().__init__()
        self.weight = _conv_weight(out_channels, in_channels, *(1,) * trailing)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C']."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class SpatialConv(nn.Module):
    """A square 2-D convolution of each picture by itself."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.weight = _conv_weight(out_channels, in_channels, kernel, kernel)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        """[B, T, H, W, C] to [B, T, H', W', C']."""
        return _conv2d(x, self.weight, self.bias, stride, padding)


class CausalConv(nn.Module):
    """A convolution over time and space that sees no later frame (spec 3.2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        super().__init__()
        self.weight = _conv_weight(out_channels, in_channels, *kernel)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.taps, _, self.width = kernel

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, T, H, W, C] to [B, T, H, W, C'], continuing from the frames the walk remembers."""
        return self.over(walk.extend(x, self.taps - 1))

    def over(self, frames: Tensor, stride: int = 1) -> Tensor:
        """Every ``stride``-th output that ``frames`` [B, T, H, W, C] hold all K taps of, without padding in time."""
        count = max(0, (frames.shape[1] - self.taps) // stride + 1)
        stacked = torch.cat([frames[:, tap::stride][:, :count] for tap in range(self.taps)], dim=-1)
        weight = rearrange(self.weight, "o i k h w -> o (k i) h w")
        return _conv2d(stacked, weight, self.bias, padding=self.width // 2)


class Residual(nn.Module):
    """``shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))`` (spec 3.2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(in_channels)
        self.conv1 = CausalConv(in_channels, out_channels)
        self.norm2 = RMSNorm(out_channels)
        self.conv2 = CausalConv(out_channels, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else Pointwise(in_channels, out_channels)

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, T, H, W, C] to [B, T, H, W, C']."""
        shortcut: Tensor = self.shortcut(x)
        x = self.conv1(F.silu(self.norm1(x)), walk)
        x = self.conv2(F.silu(self.norm2(x)), walk)
        return shortcut + x


class Attention(nn.Module):
    """One-head attention among the pixels of each picture, as a residual (spec 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, trailing=2)
        self.to_qkv = Pointwise(channels, 3 * channels, trailing=2)
        self.proj = Pointwise(channels, channels, trailing=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, H, W, C] to the same shape."""
        batch, _, height, _, _ = x.shape
        q, k, v = rearrange(self.to_qkv(self.norm(x)), "b t h w (three c) -> three (b t) 1 (h w) c", three=3)
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = rearrange(mixed, "(b t) 1 (h w) c -> b t h w c", b=batch, h=height)
        change: Tensor = self.proj(mixed)
        return x + change


class Downsample(nn.Module):
    """Halves the picture, and the time after the very first frame where ``temporal`` (spec 3.2, 3.3)."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.conv = SpatialConv(channels, channels)
        self.time_conv = CausalConv(channels, channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, T, H, W, C] to [B, T', H/2, W/2, C]; T' = T/2, of the first pass 1 + (T-1)/2."""
        x = self.conv(F.pad(x, (0, 0, 0, 1, 0, 1)), stride=2)
        if self.time_conv is None:
            return x
        lead = x[:, : int(walk.is_start)]
        frames = walk.extend(x, 1)
        return torch.cat([lead, self.time_conv.over(frames[:, lead.shape[1] :], stride=2)], dim=1)


class Upsample(nn.Module):
    """Doubles the picture, and the time after the very first latent where ``temporal`` (spec 3.2, 3.3)."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.time_conv = CausalConv(channels, 2 * channels, (3, 1, 1)) if temporal else None
        self.conv = SpatialConv(channels, channels // 2)

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, T, H, W, C] to [B, T', 2H, 2W, C/2]; T' = 2T, of the first pass 1 + 2(T-1)."""
        if self.time_conv is not None:
            # The very first latent is one frame and never enters the history of the time convolution.
            lead, rest = x.tensor_split([int(walk.is_start)], dim=1)
            doubled = rearrange(self.time_conv(rest, walk), "b t h w (two c) -> b (t two) h w c", two=2)
            x = torch.cat([lead, doubled], dim=1)
        x = repeat(x, "b t h w c -> b t (h two_h) (w two_w) c", two_h=2, two_w=2)
        x = self.conv(x, padding=1)
        return x


class Level(nn.Module):
    """Residuals at one resolution, then the change to the next."""

    def __init__(self, channels: Iterable[tuple[int, int]], resample: Downsample | Upsample | None) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(Residual(inside, outside) for inside, outside in channels)
        self.resample = resample

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, T, H, W, C] to the next level's shape."""
        for residual in self.residuals:
            x = residual(x, walk)
        return x if self.resample is None else self.resample(x, walk)


class Middle(nn.Module):
    """Residual, attention, residual at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Residual(channels, channels)
        self.attention = Attention(channels)
        self.last = Residual(channels, channels)

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, T, H, W, C] to the same shape."""
        x = self.first(x, walk)
        x = self.attention(x)
        x = self.last(x, walk)
        return x
