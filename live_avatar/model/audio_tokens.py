"""Speech features of a block to audio tokens of its latents (spec 1.7).

A separate network from the DiT although it comes in the same checkpoint: the audio encoder service runs it once
per block, the stages only receive its tokens.  It knows nothing of waveforms or of other blocks.

Letters: B batch, A speakers, F latents, T audio frames, N tokens, C width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from live_avatar.config import DiTConfig

_STRIDE = 4
"""Audio frames per latent: two convolutions of stride 2."""
_NEEDED_HISTORY = 5
"""Frames before a block in the receptive field of its first kept token."""


@dataclass(frozen=True)
class AudioTokens:
    """Audio tokens of one block, as the DiT receives them."""

    local: Tensor
    """[B, A, F, N, C] tokens to attend to."""
    glob: Tensor
    """[B, A, F, C] vector that modulates the queries."""
    mask: Tensor | None = None
    """[B, A, F, S] weight of each speaker at each token; None: one speaker everywhere."""


class CausalConv(nn.Module):
    """Convolution over time that sees the past alone; the first frame is its own past."""

    def __init__(self, channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, out_channels, kernel_size=3, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, ceil(T / stride), C']."""
        padded = F.pad(x.mT, (2, 0), mode="replicate")
        out: Tensor = self.conv(padded).mT
        return out


class AudioTokenEncoder(nn.Module):
    """Mixes the speech encoder's hidden states and turns four video frames into one latent's tokens."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        quarter = config.dim // 4
        self.mix = nn.Parameter(torch.full((1, config.audio_states, 1, 1), 0.01))
        self.local_in = CausalConv(config.audio_dim, quarter * config.audio_tokens)
        self.global_in = CausalConv(config.audio_dim, quarter)
        self.middle = CausalConv(quarter, config.dim // 2, stride=2)
        self.out = CausalConv(config.dim // 2, config.dim, stride=2)
        self.global_out = nn.Linear(config.dim, config.dim)
        self.padding_token = nn.Parameter(torch.zeros(1, 1, 1, config.dim))

    def forward(self, features: Tensor) -> AudioTokens:
        """Audio tokens of one block, or of a whole clip.

        Args:
            features: [B, states, audio_dim, T] speech hidden states, one per video frame, T a multiple of 4.

        Returns:
            Tokens of T / 4 latents for one speaker.
        """
        hidden = self._with_history(self._mix(features))
        local = rearrange(self.local_in(hidden), "b t (n c) -> (b n) t c", n=self.config.audio_tokens)
        local = rearrange(self._downsample(local), "(b n) f c -> b f n c", n=self.config.audio_tokens)
        padding = self.padding_token.expand(*local.shape[:2], -1, -1)
        glob = self.global_out(self._downsample(self.global_in(hidden)))
        unused = self._history()[1]
        return AudioTokens(local=torch.cat([local, padding], dim=2)[:, None, unused:], glob=glob[:, None, unused:])

    def _mix(self, features: Tensor) -> Tensor:
        """Weighted mean of the hidden states: [B, states, audio_dim, T] -> [B, T, audio_dim]."""
        weights = F.silu(self.mix)
        return ((features * weights).sum(dim=1) / weights.sum(dim=1)).mT

    def _downsample(self, x: Tensor) -> Tensor:
        """[B, T, C / 4] -> [B, ceil(T / 4), C]."""
        for conv in (self.middle, self.out):
            x = conv(F.silu(_layer_norm(x)))
        return F.silu(_layer_norm(x))

    def _with_history(self, x: Tensor) -> Tensor:
        """Prepends copies of the first frame to ``x`` [B, T, C]."""
        copies = self._history()[0]
        return torch.cat([x[:, :1].expand(-1, copies, -1), x], dim=1)

    def _history(self) -> tuple[int, int]:
        """Copies of the first frame to prepend, and latents to drop again.

        The reference prepends ``audio_history_frames``.  Copies outside the receptive field of
        all kept tokens equal the convolutions' own padding, so whole strides of them are left out: same numbers, a
        fifth of the work.
        """
        frames, latents = self.config.audio_history_frames, self.config.audio_history_latents
        surplus = max(0, (frames - _NEEDED_HISTORY) // _STRIDE)
        return frames - _STRIDE * surplus, latents - surplus


def public_names(config: DiTConfig) -> dict[str, str]:
    """Names in the public DiT checkpoint -> names in ``AudioTokenEncoder``."""
    ours = {"weights": "mix", "encoder.padding_tokens": "padding_token"}
    modules = {
        "conv1_local.conv": "local_in.conv",
        "conv1_global.conv": "global_in.conv",
        "conv2.conv": "middle.conv",
        "conv3.conv": "out.conv",
        "final_linear": "global_out",
    }
    for theirs, mine in modules.items():
        ours |= {f"encoder.{theirs}.{kind}": f"{mine}.{kind}" for kind in ("weight", "bias")}
    return {f"casual_audio_encoder.{theirs}": mine for theirs, mine in ours.items()}


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
