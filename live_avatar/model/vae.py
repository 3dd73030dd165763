"""The causal video autoencoder: video to latents and back, whole or latent by latent (spec 3).

The networks hold no state.  What a decoder must remember between calls is a `DecoderCache` that the caller owns.
Knows nothing of sessions, blocks, portraits or how weights are read from disk.

Letters: B batch, T frames, F latents, H and W pixels, h and w latent pixels, C latent channels.
"""

from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from live_avatar.config import VAEConfig
from live_avatar.model.vae_layers import (
    CausalConv,
    Downsample,
    Level,
    Middle,
    Pointwise,
    RMSNorm,
    TimeWalk,
    Upsample,
)

RGB = 3


class DecoderCache:
    """What one decoder remembers of one session between two calls (spec 3.4).

    Fresh or after `reset` it holds nothing, and the next latent counts as the first of a video.
    """

    def __init__(self) -> None:
        self.histories: tuple[Tensor, ...] = ()
        """The last two input frames [B, 2, height, width, channels] of each causal convolution, in visiting order."""

    def reset(self) -> None:
        """Forgets everything and frees the memory."""
        self.histories = ()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(history.nbytes for history in self.histories)


class Encoder(nn.Module):
    """Frames to the two halves of the posterior, before the last 1x1 convolution."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.dim * multiplier for multiplier in (1, *config.multipliers)]
        self.stem = CausalConv(RGB, widths[0])
        self.levels = nn.ModuleList()
        for level, (inside, outside) in enumerate(pairwise(widths)):
            channels = [(inside, outside)] + [(outside, outside)] * (config.residual_blocks - 1)
            is_last = level == len(config.temporal_downsample)
            resample = None if is_last else Downsample(outside, config.temporal_downsample[level])
            self.levels.append(Level(channels, resample))
        self.middle = Middle(widths[-1])
        self.head_norm = RMSNorm(widths[-1])
        self.head = CausalConv(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, T, H, W, 3] to [B, F, h, w, 2C]."""
        x = self.stem(x, walk)
        for level in self.levels:
            x = level(x, walk)
        x = self.middle(x, walk)
        x = self.head(F.silu(self.head_norm(x)), walk)
        return x


class Decoder(nn.Module):
    """Latents to frames, after the first 1x1 convolution."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.dim * multiplier for multiplier in reversed(config.multipliers)]
        temporal = config.temporal_downsample[::-1]
        self.stem = CausalConv(config.latent_channels, widths[0])
        self.middle = Middle(widths[0])
        self.levels = nn.ModuleList()
        inside = widths[0]
        for level, outside in enumerate(widths):
            channels = [(inside, outside)] + [(outside, outside)] * config.residual_blocks
            resample = None if level == len(temporal) else Upsample(outside, temporal[level])
            self.levels.append(Level(channels, resample))
            inside = outside // 2
        self.head_norm = RMSNorm(widths[-1])
        self.head = CausalConv(widths[-1], RGB)

    def forward(self, x: Tensor, walk: TimeWalk) -> Tensor:
        """[B, F, h, w, C] to [B, T, H, W, 3]."""
        x = self.stem(x, walk)
        x = self.middle(x, walk)
        for level in self.levels:
            x = level(x, walk)
        x = self.head(F.silu(self.head_norm(x)), walk)
        return x


class VAE(nn.Module):
    """The Wan 2.1 autoencoder (spec 3).  Computes in the precision of its weights, whatever that of its input."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.to_moments = Pointwise(2 * config.latent_channels, 2 * config.latent_channels)
        self.from_latents = Pointwise(config.latent_channels, config.latent_channels)
        self.decoder = Decoder(config)
        # On the CPU by name: a model laid out on the meta device gets only its parameters from a checkpoint.
        self.register_buffer("mean", torch.tensor(config.mean, device="cpu"), persistent=False)
        self.register_buffer("std", torch.tensor(config.std, device="cpu"), persistent=False)

    def encode(self, video: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] in [-1, 1] to normalised latents [B, C, F, h, w], F = 1 + (T-1)/4.

        Raises:
            ValueError: as `posterior`.
        """
        mean, _ = self.posterior(video)
        return self.normalise(mean)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, C, F, h, w] of the latents of a video, before normalisation.

        Works on 1 frame, then on groups of 4 (spec 3.3), so that memory does not grow with the length.

        Raises:
            ValueError: T is not 1 + 4k, or H or W is not a multiple of 8.
        """
        return self._moments(list(self._features(video)))

    def encode_in_steps(self, video: Tensor) -> Generator[None, None, Tensor]:
        """``encode`` for those who share a device: pauses after each group of frames, returns the latents.

        Raises:
            ValueError: as `posterior`.
        """
        features = []
        for group in self._features(video):
            features.append(group)
            yield
        mean, _ = self._moments(features)
        return self.normalise(mean)

    def _features(self, video: Tensor) -> Iterator[Tensor]:
        """What the encoder makes of 1 frame, then of groups of 4: [B, 1, h, w, 2C] each."""
        self._check_video(video)
        frames = rearrange(video.to(self.to_moments.weight.dtype), "b c t h w -> b t h w c")
        group = self.config.temporal_factor
        sizes = [1] + [group] * ((frames.shape[1] - 1) // group)
        histories: tuple[Tensor, ...] = ()
        for chunk in frames.split(sizes, dim=1):
            walk = TimeWalk(histories)
            yield self.encoder(chunk, walk)
            histories = walk.finish()

    def _moments(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, C, F, h, w] of F features."""
        moments = rearrange(self.to_moments(torch.cat(tuple(features), dim=1)), "b f h w c -> b c f h w")
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, F, h, w] to video [B, 3, 1 + 4(F-1), H, W], about [-1, 1] but not clamped.

        Takes one latent at a time, so that memory does not grow with the length.

        Raises:
            ValueError: as `decode_next`.
        """
        cache = DecoderCache()
        return torch.cat([self.decode_next(latent, cache) for latent in latents.split(1, dim=2)], dim=2)

    def decode_next(self, latents: Tensor, cache: DecoderCache) -> Tensor:
        """The frames of the next latents [B, C, f, h, w] of the video that ``cache`` stands in.

        Returns [B, 3, 4f, H, W], about [-1, 1] but not clamped (`to_uint8` clamps); the very first latent of a video
        yields 1 frame instead of 4.  How a video is cut into calls does not matter.  Advances the cache only when
        everything succeeded.

        Raises:
            ValueError: ``latents`` is not [B, C, f, h, w], or not of the size that ``cache`` holds.
        """
        self._check_latents(latents, cache)
        x = rearrange(self.denormalise(latents.to(self.from_latents.weight.dtype)), "b c f h w -> b f h w c")
        walk = TimeWalk(cache.histories)
        # In one memory layout: kernels round by layout, and latents that came over a wire have lost theirs.
        frames: Tensor = self.decoder(self.from_latents(x.contiguous()), walk)
        cache.histories = walk.finish()
        return rearrange(frames, "b t h w c -> b c t h w")

    def decode_pixels(self, latents: Tensor, cache: DecoderCache) -> Tensor:
        """As `decode_next`, as pictures [B, 4f, H, W, 3] of 0..255."""
        return to_uint8(self.decode_next(latents, cache))

    def normalise(self, latents: Tensor) -> Tensor:
        """[B, C, F, h, w] as encoded, to zero mean and unit spread per channel, in its own precision (spec 3.1)."""
        mean, inverse_std = self._scale(latents)
        return (latents - mean) * inverse_std

    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, inverse_std = self._scale(latents)
        return latents / inverse_std + mean

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1/std [C, 1, 1, 1], rounded to the precision of ``like``, as the public pipeline rounds them."""
        mean, std = (rearrange(row.to(like), "c -> c 1 1 1") for row in (self.mean, self.std))
        return mean, 1 / std

    def _check_video(self, video: Tensor) -> None:
        if video.ndim != 5 or video.shape[1] != RGB:
            raise ValueError(f"video must be [B, {RGB}, T, H, W], not {list(video.shape)}")
        frames, height, width = video.shape[2:]
        if frames < 1 or (frames - 1) % self.config.temporal_factor:
            raise ValueError(f"a video needs 1 + {self.config.temporal_factor}k frames, not {frames}")
        if not height or not width or height % self.config.spatial_factor or width % self.config.spatial_factor:
            raise ValueError(f"height={height}, width={width} must be multiples of {self.config.spatial_factor}")

    def _check_latents(self, latents: Tensor, cache: DecoderCache) -> None:
        channels = self.config.latent_channels
        if latents.ndim != 5 or latents.shape[1] != channels or not latents.numel():
            raise ValueError(f"latents must be [B, {channels}, f, h, w] and not empty, not {list(latents.shape)}")
        if not cache.histories:
            return
        batch, _, height, width, _ = cache.histories[0].shape
        if (batch, height, width) != (latents.shape[0], *latents.shape[3:]):
            raise ValueError(f"the cache holds B={batch}, h={height}, w={width}, the latents are {list(latents.shape)}")


def to_uint8(video: Tensor) -> Tensor:
    """Decoded video [B, 3, T, H, W] to pictures [B, T, H, W, 3] of 0..255, clamped and rounded to nearest."""
    levels = (video.float().clamp(-1, 1) + 1) * 127.5
    return rearrange(levels.round().to(torch.uint8), "b c t h w -> b t h w c").contiguous()


def decoder_cache_nbytes(config: VAEConfig, height: int, width: int, dtype: torch.dtype) -> int:
    """Bytes of one session's `DecoderCache` at ``height`` x ``width`` latent pixels, without allocating them."""
    with torch.device("meta"):
        vae, cache = VAE(config).to(dtype), DecoderCache()
        vae.decode_next(torch.empty(1, config.latent_channels, 1, height, width), cache)
    return cache.nbytes


def public_names(config: VAEConfig) -> dict[str, str]:
    """Every key of the public checkpoint, and our key for the same tensor of the same shape."""
    with torch.device("meta"):
        ours = VAE(config).state_dict()
    return {_public_name(name, config): name for name in ours}


_PUBLIC_TOP = {"to_moments": "conv1", "from_latents": "conv2"}
_PUBLIC_ENDS = {"stem": "conv1", "head_norm": "head.0", "head": "head.2"}
_PUBLIC_MIDDLE = {"first": "middle.0", "attention": "middle.1", "last": "middle.2"}
_PUBLIC_RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
_PUBLIC_RESAMPLE = {"conv": "resample.1"}
_PUBLIC_LIST = {"encoder": "downsamples", "decoder": "upsamples"}


def _public_name(name: str, config: VAEConfig) -> str:
    """Our key as the public checkpoint spells it: there the parts of all levels stand in one numbered list."""
    match name.split("."):
        case [top, leaf]:
            return f"{_PUBLIC_TOP[top]}.{leaf}"
        case [side, end, leaf]:
            return f"{side}.{_PUBLIC_ENDS[end]}.{leaf}"
        case [side, "middle", place, part, leaf]:
            return f"{side}.{_PUBLIC_MIDDLE[place]}.{_PUBLIC_RESIDUAL.get(part, part)}.{leaf}"
        case [side, "levels", level, "residuals", index, part, leaf]:
            place = str(int(level) * _parts_per_level(side, config) + int(index))
            return f"{side}.{_PUBLIC_LIST[side]}.{place}.{_PUBLIC_RESIDUAL.get(part, part)}.{leaf}"
        case [side, "levels", level, "resample", part, leaf]:
            place = str((int(level) + 1) * _parts_per_level(side, config) - 1)
            return f"{side}.{_PUBLIC_LIST[side]}.{place}.{_PUBLIC_RESAMPLE.get(part, part)}.{leaf}"
    raise AssertionError(f"the autoencoder has an unknown key {name!r}")


def _parts_per_level(side: str, config: VAEConfig) -> int:
    """Residuals of a level, and its resample."""
    return config.residual_blocks + (2 if side == "decoder" else 1)
