"""The speech-to-video diffusion transformer, one forward for every use (spec 1).

``CausalDiT`` predicts the velocity of noisy latents given a sink, a text and audio.  Whether it trains on a whole
clip, scores it bidirectionally, prefills a sink or streams a block against a window is decided by what is passed
in: noisy latents, a sink, or both, and the pattern by which they attend.  It holds weights only: no positions, no
cache, no noise schedule.

Letters: B batch, F latents, S tokens per latent, L tokens, R runs of one noise level, A speakers, C width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from live_avatar.config import MOTION_GROUPS, MOTION_LATENTS, DiTConfig
from live_avatar.model.attention import CrossAttention, SelfAttend, SelfAttention, attend
from live_avatar.model.audio_tokens import AudioTokens

NOISY, REFERENCE, MOTION = range(3)
"""Rows of the token-kind embedding."""


@dataclass(frozen=True)
class TimeEmbedding:
    """Noise levels as the layers and the head use them, float32."""

    head: Tensor
    """[B, R, C]"""
    layers: Tensor
    """[B, R, 6, C]: shift, scale, gate of attention, then of the feed-forward."""


@dataclass(frozen=True)
class TextKV:
    """Keys and values of the prompt for every layer, each [B, text_len, H, D]; computed once per prompt."""

    layers: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class NoisyInput:
    """Latents to denoise."""

    latent: Tensor
    """[B, 16, F, h, w]"""
    time: TimeEmbedding
    """Of R noise levels; F is a multiple of R."""
    audio: AudioTokens
    pose: Tensor | None = None
    """[B, 16, F, h, w] latents of a pose video; None is a pose of zeros."""


@dataclass(frozen=True)
class SinkInput:
    """Clean latents that every block attends to."""

    reference: Tensor
    """[B, 16, 1, h, w]"""
    time: TimeEmbedding
    """Of noise level 0, R = 1."""
    motion: Tensor | None = None
    """[B, 16, n, h, w] past latents, oldest first; the last ``MOTION_LATENTS`` count, fewer are padded by zeros."""


class PatchEmbedding(nn.Module):
    """Cuts latents into patches and projects each to a token: a convolution whose stride is its kernel."""

    def __init__(self, channels: int, dim: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.zeros(dim, channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, latent: Tensor) -> Tensor:
        """[B, 16, F, h, w] -> [B, L, C] frame-major; a remainder that fills no patch is cut off."""
        kernel_t, kernel_h, kernel_w = self.kernel
        height, width = latent.shape[-2] // kernel_h * kernel_h, latent.shape[-1] // kernel_w * kernel_w
        patches = rearrange(
            latent[..., :height, :width],
            "b c (f t) (h p) (w q) -> b (f h w) (c t p q)",
            t=kernel_t,
            p=kernel_h,
            q=kernel_w,
        )
        return F.linear(patches, self.weight.flatten(1), self.bias)


class AudioInjection(nn.Module):
    """Adds what the audio says to the noisy tokens, latent by latent (spec 1.11)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.audio_norm_eps
        self.modulation = nn.Linear(config.dim, 2 * config.dim)
        self.attention = CrossAttention(config.dim, config.num_heads, config.eps)

    def forward(self, x: Tensor, audio: AudioTokens) -> Tensor:
        """Adds every speaker's residual, weighted by its mask, to the noisy tokens ``x`` [B, L, C]."""
        frames = rearrange(x, "b (f s) c -> b f s c", f=audio.local.shape[2])
        added = torch.zeros_like(frames)
        for speaker in range(audio.local.shape[1]):
            attended = self._attend_audio(frames, audio.local[:, speaker], audio.glob[:, speaker])
            added = added + (attended if audio.mask is None else attended * audio.mask[:, speaker, ..., None])
        return x + rearrange(added, "b f s c -> b (f s) c")

    def _attend_audio(self, frames: Tensor, local: Tensor, glob: Tensor) -> Tensor:
        """Residual [B, F, S, C] of one speaker with tokens [B, F, N, C] and global vectors [B, F, C]."""
        shift, scale = self.modulation(F.silu(glob))[:, :, None].chunk(2, dim=-1)
        y = F.layer_norm(frames.float(), frames.shape[-1:], eps=self.eps) * (1 + scale) + shift
        keys, values = self.attention.keys_values(rearrange(local, "b f n c -> (b f) n c"))
        queries = self.attention.queries(rearrange(y.to(frames.dtype), "b f s c -> (b f) s c"))
        attended = self.attention.output(attend(queries, keys, values))
        return rearrange(attended, "(b f) s c -> b f s c", f=frames.shape[1])


class TransformerLayer(nn.Module):
    """Self-attention, text cross-attention and feed-forward, modulated by the noise level (spec 1.10)."""

    def __init__(self, config: DiTConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))
        self.self_attn = SelfAttention(config.dim, config.num_heads, config.eps)
        self.norm_text = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config.dim, config.num_heads, config.eps)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, config.dim)
        )
        self.audio = AudioInjection(config) if index in config.audio_layers else None

    def forward(
        self,
        x: Tensor,
        level: "NoiseLevels",
        text: tuple[Tensor, Tensor],
        audio: AudioTokens | None,
        pattern: SelfAttend,
    ) -> Tensor:
        """One layer over ``x`` [B, L, C], noisy tokens first; ``audio`` is None where no token is noisy."""
        dtype = x.dtype
        shift1, scale1, gate1, shift2, scale2, gate2 = level.rows(self.modulation)
        y = self._norm(x) * (1 + scale1) + shift1
        x = x + self.self_attn(y.to(dtype), self.index, pattern) * gate1
        x = x + self.cross_attn(self.norm_text(x.to(dtype)), *text)
        y = self._norm(x) * (1 + scale2) + shift2
        x = (x + self.ffn(y.to(dtype)) * gate2).to(dtype)
        if self.audio is None or audio is None:
            return x
        noisy = x[:, : level.noisy_tokens]
        return torch.cat([self.audio(noisy, audio), x[:, level.noisy_tokens :]], dim=1)

    def _norm(self, x: Tensor) -> Tensor:
        """Statistics in float32; the result is rounded to the type of ``x`` and calculated with in float32."""
        return F.layer_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype).float()


@dataclass(frozen=True)
class NoiseLevels:
    """The noise level of every token: runs of tokens that share one row of the time embedding."""

    time: TimeEmbedding
    sizes: tuple[int, ...]
    """Tokens of each run."""
    noisy_tokens: int

    def rows(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate rows of a layer, each [B, 1 or L, C] float32."""
        return self._per_token(modulation.float() + self.time.layers).unbind(dim=2)

    def head_rows(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift and scale of the head, each [B, 1 or L, C] float32."""
        return self._per_token(modulation.float() + self.time.head[:, :, None]).unbind(dim=2)

    def _per_token(self, rows: Tensor) -> Tensor:
        """[B, R, n, C] -> [B, L, n, C]; a single run is left to broadcasting."""
        if len(self.sizes) == 1:
            return rows
        runs = [rows[:, run : run + 1].expand(-1, size, -1, -1) for run, size in enumerate(self.sizes)]
        return torch.cat(runs, dim=1)


class Head(nn.Module):
    """Tokens back to latent values, modulated by the noise level (spec 1.12)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        patch_t, patch_h, patch_w = config.patch
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))
        self.linear = nn.Linear(config.dim, patch_t * patch_h * patch_w * config.latent_channels)

    def forward(self, x: Tensor, level: NoiseLevels) -> Tensor:
        """[B, L, C] -> [B, L, patch * 16]; calculated in float32, rounded to the type of ``x``."""
        shift, scale = level.head_rows(self.modulation)
        y = F.layer_norm(x.float(), x.shape[-1:], eps=self.eps) * (1 + scale) + shift
        return _float32_linear(self.linear, y).to(x.dtype)


class CausalDiT(nn.Module):
    """The denoiser of the paper, without its audio token encoder (``audio_tokens``)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = PatchEmbedding(config.latent_channels, config.dim, config.patch)
        self.pose_embedding = PatchEmbedding(config.latent_channels, config.dim, config.patch)
        self.motion_embeddings = nn.ModuleList(
            PatchEmbedding(config.latent_channels, config.dim, group.kernel) for group in MOTION_GROUPS
        )
        self.token_kind = nn.Embedding(3, config.dim)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim), nn.GELU(approximate="tanh"), nn.Linear(config.dim, config.dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Linear(config.dim, 6 * config.dim)
        self.layers = nn.ModuleList(TransformerLayer(config, index) for index in range(config.num_layers))
        self.head = Head(config)

    def forward(
        self, noisy: NoisyInput | None, sink: SinkInput | None, text: TextKV, pattern: SelfAttend
    ) -> Tensor | None:
        """Predicts the velocity (noise - clean) of the noisy latents.

        Args:
            noisy: latents to denoise; None in a sink prefill.
            sink: clean latents that go through the network beside them; None when a window holds them already.
            text: the prompt, from ``embed_text``.
            pattern: how tokens attend to each other, in the order noisy, reference, motion (spec 1.3).

        Returns:
            [B, 16, F, h, w], or None without noisy latents: a prefill leaves its result in the pattern.
        """
        x, level = self._tokens(noisy, sink)
        for layer, text_kv in zip(self.layers, text.layers, strict=True):
            x = layer(x, level, text_kv, noisy.audio if noisy else None, pattern)
        return self.velocity(x, level, noisy) if noisy else None

    def embed_text(self, states: Tensor) -> TextKV:
        """Keys and values of a prompt for every layer (spec 1.6).

        Args:
            states: [B, L, text_dim] output of the text encoder, L <= text_len; missing rows are zeros and count.

        Raises:
            ValueError: more rows than ``text_len``.
        """
        missing = self.config.text_len - states.shape[1]
        if missing < 0:
            raise ValueError(f"the prompt has {states.shape[1]} text states, the model takes {self.config.text_len}")
        context = self.text_embedding(F.pad(states, (0, 0, 0, missing)))
        return TextKV(tuple(_transformer_layer(layer).cross_attn.keys_values(context) for layer in self.layers))

    def embed_time(self, timestep: Tensor) -> TimeEmbedding:
        """Noise levels ``timestep`` [B, R] in 0..1000 for layers and head (spec 1.5); float32 throughout."""
        half = self.config.freq_dim // 2
        exponents = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
        angles = timestep.double()[..., None] * 10_000.0**-exponents
        e = torch.cat([angles.cos(), angles.sin()], dim=-1).float()
        e = _float32_linear(self.time_embedding[2], F.silu(_float32_linear(self.time_embedding[0], e)))
        rows = _float32_linear(self.time_projection, F.silu(e))
        return TimeEmbedding(head=e, layers=rearrange(rows, "b r (n c) -> b r n c", n=6))

    def sink_input(self, reference: Tensor, motion: Tensor | None = None) -> SinkInput:
        """A sink at noise level 0 from ``reference`` [B, 16, 1, h, w] and ``motion`` [B, 16, n, h, w]."""
        clean = self.embed_time(torch.zeros(reference.shape[0], 1, device=reference.device))
        return SinkInput(reference=reference, motion=motion, time=clean)

    def noisy_tokens(self, noisy: NoisyInput) -> Tensor:
        """Tokens [B, L, C] of the latents to denoise (spec 1.4)."""
        pose = self.pose_embedding.bias if noisy.pose is None else self.pose_embedding(noisy.pose)
        tokens: Tensor = self.patch_embedding(noisy.latent) + pose + self.token_kind.weight[NOISY]
        return tokens

    def sink_tokens(self, sink: SinkInput) -> Tensor:
        """Tokens [B, L, C] of the sink: the reference, then motion from the newest group to the oldest (spec 1.9).

        Raises:
            ValueError: motion latents are missing, or given to a model whose sink is the reference alone.
        """
        if (sink.motion is not None) != self.config.use_motion:
            given = "without" if sink.motion is None else "with"
            raise ValueError(f"a sink {given} motion latents for a model with use_motion={self.config.use_motion}")
        tokens = [self.patch_embedding(sink.reference) + self.token_kind.weight[REFERENCE]]
        if sink.motion is not None:
            past = MOTION_LATENTS
            motion = F.pad(sink.motion[:, :, -past:], (0, 0, 0, 0, max(0, past - sink.motion.shape[2]), 0))
            for group, embedding in zip(MOTION_GROUPS, self.motion_embeddings, strict=True):
                oldest = past - (group.newest + group.latents - 1)
                latents = motion[:, :, oldest : oldest + group.latents]
                tokens.append(embedding(latents) + self.token_kind.weight[MOTION])
        return torch.cat(tokens, dim=1)

    def _tokens(self, noisy: NoisyInput | None, sink: SinkInput | None) -> tuple[Tensor, NoiseLevels]:
        """All tokens [B, L, C], noisy first, and the noise level of each."""
        parts, times, sizes = [], [], []
        if noisy is not None:
            parts.append(self.noisy_tokens(noisy))
            runs = noisy.time.head.shape[1]
            if noisy.latent.shape[2] % runs:
                raise ValueError(f"{noisy.latent.shape[2]} latents cannot be split evenly over {runs} noise levels")
            times.append(noisy.time)
            sizes += [parts[0].shape[1] // runs] * runs
        noisy_tokens = sum(sizes)
        if sink is not None:
            parts.append(self.sink_tokens(sink))
            times.append(sink.time)
            sizes.append(parts[-1].shape[1])
        if len(parts) == 1:
            return parts[0], NoiseLevels(times[0], tuple(sizes), noisy_tokens)
        time = TimeEmbedding(torch.cat([t.head for t in times], dim=1), torch.cat([t.layers for t in times], dim=1))
        return torch.cat(parts, dim=1), NoiseLevels(time, tuple(sizes), noisy_tokens)

    def velocity(self, x: Tensor, level: NoiseLevels, noisy: NoisyInput) -> Tensor:
        """Unpatchifies the head's output of the noisy tokens (spec 1.13)."""
        runs = noisy.time.head.shape[1]
        time = TimeEmbedding(level.time.head[:, :runs], level.time.layers[:, :runs])
        out = self.head(x[:, : level.noisy_tokens], NoiseLevels(time, level.sizes[:runs], level.noisy_tokens))
        _, patch_h, patch_w = self.config.patch
        _, _, latents, height, _ = noisy.latent.shape
        pattern, rows = "b (f h w) (p q c) -> b c f (h p) (w q)", height // patch_h
        velocity: Tensor = rearrange(out, pattern, f=latents, h=rows, p=patch_h, q=patch_w)
        return velocity


def public_names(config: DiTConfig) -> dict[str, str]:
    """Names in the public DiT checkpoint -> names in ``CausalDiT``; the audio token encoder is named elsewhere."""
    with torch.device("meta"):
        ours = CausalDiT(config).state_dict()
    return {_public_name(config, name): name for name in ours}


def _public_name(config: DiTConfig, name: str) -> str:
    top = {"pose_embedding": "cond_encoder", "token_kind": "trainable_cond_mask", "head.linear": "head.head",
           "time_projection": "time_projection.1"}  # fmt: skip
    for ours, theirs in top.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    kind, _, rest = name.partition(".")
    index, _, rest = rest.partition(".")
    if kind == "motion_embeddings":
        return f"frame_packer.{MOTION_GROUPS[int(index)].name}.{rest}"
    if kind != "layers":
        return name
    if rest.startswith("audio."):
        injection = config.audio_layers.index(int(index))
        rest = rest.removeprefix("audio.")
        if rest.startswith("attention."):
            return f"audio_injector.injector.{injection}.{rest.removeprefix('attention.')}"
        return f"audio_injector.injector_adain_layers.{injection}.{rest.replace('modulation', 'linear', 1)}"
    return f"blocks.{index}.{rest.replace('norm_text', 'norm3', 1)}"


def _transformer_layer(module: nn.Module) -> TransformerLayer:
    """A layer out of a module list, which forgets what it holds."""
    assert isinstance(module, TransformerLayer)
    return module


def _float32_linear(linear: nn.Module, x: Tensor) -> Tensor:
    """Applies a linear layer of any type in float32: the reference's float32 islands (spec 1.14)."""
    assert isinstance(linear, nn.Linear)
    return F.linear(x, linear.weight.float(), linear.bias.float())
