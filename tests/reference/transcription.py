"""The streaming forward as the specification tells it, without any saving: the slow twin of ``benchmarks.step``.

The position table is built on every call, rotations multiply in complex128, keys and values are concatenated, the
prompt goes through its layers on every forward, modulation is spread over every token, and 73 copies of a block's
first audio frame are convolved.  Works on public checkpoint names and plain tensors; knows nothing of our modules.

Letters: F latents, L tokens, H heads, D head width, C width; the batch is 1 and left out of most shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from live_avatar.config import DiTConfig

FULL_TABLE_ROWS = 45_000
"""Positions of the reference's table (spec 1.1)."""
MOTION_FRAMES = ((-1,), (-3,), (-19, -14, -9, -4))
MOTION_STRIDES = (2, 4, 8)

Weights = dict[str, Tensor]
Positions = Sequence[int]
AttentionOf = Callable[[Tensor], Tensor]
Table = tuple[Tensor, Tensor, Tensor]


@dataclass
class Memory:
    """What a step remembers: per layer the blocks of the window, oldest overwritten, and the sink's raw K/V."""

    blocks: list[dict[int, tuple[Tensor, Tensor]]]
    sink: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class BlockInput:
    """Everything one streaming forward is given."""

    latent: Tensor
    """[1, 16, F, h, w]"""
    pose: Tensor
    """[1, 16, F, h, w]"""
    timestep: Tensor
    """[1, F]"""
    context: Tensor
    """[L, text_dim]"""
    audio: Tensor
    """[1, 25, audio_dim, 4F]"""
    block: int
    distance: int


class Transcription:
    """The network of spec 1 and 2, for one session at one noise level."""

    def __init__(self, config: DiTConfig, weights: Weights, window_blocks: int, table_rows: int) -> None:
        self.config = config
        self.w = weights
        self.window_blocks = window_blocks
        self.table_rows = table_rows

    def prefill(self, reference: Tensor, motion: Tensor, context: Tensor) -> Memory:
        """Runs the sink alone and keeps its raw keys and values (spec 2.5)."""
        memory = Memory(blocks=[{} for _ in range(self.config.num_layers)])
        height, width = reference.shape[-2:]
        kinds = self.w["trainable_cond_mask.weight"]
        newest, middle, oldest = motion[:, :, -1:], motion[:, :, -3:-1], motion[:, :, -19:-3]
        parts = [self._patches("patch_embedding", reference) + kinds[1]]
        for name, latents in (("proj", newest), ("proj_2x", middle), ("proj_4x", oldest)):
            parts.append(self._patches(f"frame_packer.{name}", latents) + kinds[2])
        x = torch.cat(parts, dim=1)
        table = self._table(self.config.reference_position)
        turns = self._sink_turns(table, self.config.reference_position, height, width)
        _, e0 = self._time(torch.zeros(1, 1))
        rows = e0[0, 0].expand(x.shape[1], -1, -1)
        text = self._text(context)
        for layer in range(self.config.num_layers):

            def attention(y: Tensor, layer: int = layer) -> Tensor:
                q, k, v = self._qkv(f"blocks.{layer}.self_attn", y)
                memory.sink.append((k, v))
                return _attend(_turn(q, turns), _turn(k, turns), v)

            x = self._layer(layer, x, rows, text, attention)
        return memory

    def forward(self, given: BlockInput, memory: Memory) -> Tensor:
        """Velocity [1, 16, F, h, w] of a block; its keys and values enter ``memory`` (spec 2.3)."""
        _, _, latents, height, width = given.latent.shape
        tokens = height // 2 * (width // 2)
        x = self._patches("patch_embedding", given.latent) + self._patches("cond_encoder", given.pose)
        x = x + self.w["trainable_cond_mask.weight"][0]
        e, e0 = self._time(given.timestep)
        rows = e0[0].repeat_interleave(tokens, dim=0)
        first = given.block * latents
        position = max(self.config.reference_position, first + given.distance)
        table = self._table(position)
        own_turns = _turns(table, range(first, first + latents), range(height // 2), range(width // 2))
        sink_turns = self._sink_turns(table, position, height, width)
        text, received = self._text(given.context), self._audio(given.audio)
        slot = given.block % self.window_blocks
        for layer in range(self.config.num_layers):

            def attention(y: Tensor, layer: int = layer) -> Tensor:
                q, k, v = self._qkv(f"blocks.{layer}.self_attn", y)
                memory.blocks[layer][slot] = (_turn(k, own_turns), v)
                sink_k, sink_v = memory.sink[layer]
                past = memory.blocks[layer].values()
                keys = torch.cat([*(k for k, _ in past), _turn(sink_k, sink_turns)], dim=1)
                return _attend(_turn(q, own_turns), keys, torch.cat([*(v for _, v in past), sink_v], dim=1))

            x = self._layer(layer, x, rows, text, attention)
            if layer in self.config.audio_layers:
                x = self._inject(self.config.audio_layers.index(layer), x, *received)
        return self._head(x, e[0].repeat_interleave(tokens, dim=0), given.latent.shape)

    def _layer(self, layer: int, x: Tensor, rows: Tensor, text: Tensor, attention: AttentionOf) -> Tensor:
        """Spec 1.10; ``rows`` [L, 6, C]."""
        name = f"blocks.{layer}"
        m = (self.w[f"{name}.modulation"] + rows).unbind(dim=1)
        y = _norm(x, self.config.eps) * (1 + m[1]) + m[0]
        x = x + self._linear(f"{name}.self_attn.o", attention(y)) * m[2]
        y = _norm(x, self.config.eps) * self.w[f"{name}.norm3.weight"] + self.w[f"{name}.norm3.bias"]
        q = self._heads(self._rms(f"{name}.cross_attn.norm_q", self._linear(f"{name}.cross_attn.q", y)))
        k = self._heads(self._rms(f"{name}.cross_attn.norm_k", self._linear(f"{name}.cross_attn.k", text)))
        v = self._heads(self._linear(f"{name}.cross_attn.v", text))
        x = x + self._linear(f"{name}.cross_attn.o", _attend(q, k, v))
        y = _norm(x, self.config.eps) * (1 + m[4]) + m[3]
        hidden = F.gelu(self._linear(f"{name}.ffn.0", y), approximate="tanh")
        return x + self._linear(f"{name}.ffn.2", hidden) * m[5]

    def _inject(self, index: int, x: Tensor, local: Tensor, glob: Tensor) -> Tensor:
        """Spec 1.11, latent by latent."""
        name, parts = f"audio_injector.injector.{index}", []
        for frame, tokens in enumerate(x.chunk(local.shape[1], dim=1)):
            adapted = self._linear(f"audio_injector.injector_adain_layers.{index}.linear", F.silu(glob[:, [frame]]))
            shift, scale = adapted.chunk(2, dim=-1)
            q, k, v = self._qkv(name, _norm(tokens, self.config.audio_norm_eps) * (1 + scale) + shift, local[:, frame])
            parts.append(tokens + self._linear(f"{name}.o", _attend(q, k, v)))
        return torch.cat(parts, dim=1)

    def _head(self, x: Tensor, e: Tensor, shape: torch.Size) -> Tensor:
        """Spec 1.12 and 1.13; ``e`` [L, C]."""
        m = self.w["head.modulation"][0]
        out = self._linear("head.head", _norm(x, self.config.eps) * (1 + m[1] + e) + m[0] + e)
        _, channels, latents, height, width = shape
        out = out.view(latents, height // 2, width // 2, 2, 2, channels)
        return out.permute(5, 0, 1, 3, 2, 4).reshape(shape)

    def _time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Spec 1.5: e [1, F, C] and e0 [1, F, 6, C]."""
        half = self.config.freq_dim // 2
        angles = timestep.double()[..., None] * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).float()
        e = self._linear("time_embedding.2", F.silu(self._linear("time_embedding.0", sinusoid)))
        return e, self._linear("time_projection.1", F.silu(e)).unflatten(-1, (6, -1))

    def _text(self, context: Tensor) -> Tensor:
        """Spec 1.6: [1, text_len, C]."""
        padded = F.pad(context, (0, 0, 0, self.config.text_len - len(context)))[None]
        hidden = F.gelu(self._linear("text_embedding.0", padded), approximate="tanh")
        return self._linear("text_embedding.2", hidden)

    def _audio(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Spec 1.7: local tokens [1, F, N, C] and global vectors [1, F, C]."""
        name, config = "casual_audio_encoder", self.config
        copies = features[..., :1].expand(-1, -1, -1, config.audio_history_frames)
        features = torch.cat([copies, features], dim=-1)
        gates = F.silu(self.w[f"{name}.weights"])
        mixed = (features * gates / gates.sum()).sum(dim=1)
        local = [self._chain(part) for part in self._conv("conv1_local", mixed).chunk(config.audio_tokens, dim=1)]
        local.append(self.w[f"{name}.encoder.padding_tokens"][0].expand_as(local[0]))
        glob = self._linear(f"{name}.encoder.final_linear", self._chain(self._conv("conv1_global", mixed)))
        kept = slice(config.audio_history_latents, None)
        return torch.stack(local, dim=2)[:, kept], glob[:, kept]

    def _chain(self, x: Tensor) -> Tensor:
        x = self._conv("conv2", F.silu(_norm(x.mT, 1e-6)).mT, stride=2)
        x = self._conv("conv3", F.silu(_norm(x.mT, 1e-6)).mT, stride=2)
        return F.silu(_norm(x.mT, 1e-6))

    def _conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        full = f"casual_audio_encoder.encoder.{name}.conv"
        padded = F.pad(x, (2, 0), mode="replicate")
        return F.conv1d(padded, self.w[f"{full}.weight"], self.w[f"{full}.bias"], stride=stride)

    def _qkv(self, name: str, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        context = x if context is None else context
        q = self._rms(f"{name}.norm_q", self._linear(f"{name}.q", x))
        k = self._rms(f"{name}.norm_k", self._linear(f"{name}.k", context))
        return self._heads(q), self._heads(k), self._heads(self._linear(f"{name}.v", context))

    def _patches(self, name: str, latent: Tensor) -> Tensor:
        kernel = self.w[f"{name}.weight"]
        out: Tensor = F.conv3d(latent, kernel, self.w[f"{name}.bias"], stride=kernel.shape[2:])
        return out.flatten(2).mT

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def _rms(self, name: str, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.config.eps) * self.w[f"{name}.weight"]

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.config.num_heads, -1))
        return heads

    def _sink_turns(self, table: Table, position: int, height: int, width: int) -> Tensor:
        """Spec 1.8: [L, D/2] of reference and motion."""
        rows, columns = height // 2, width // 2
        parts = [_turns(table, [position], range(rows), range(columns))]
        for frames, stride in zip(MOTION_FRAMES, MOTION_STRIDES, strict=True):
            parts.append(_turns(table, frames, _spread(rows, height // stride), _spread(columns, width // stride)))
        return torch.cat(parts)

    def _table(self, last_position: int) -> Table:
        """Frame, row and column table, each [positions, pairs] complex128; as long as asked for, or as needed."""
        half = self.config.head_dim // 2
        positions = torch.arange(max(self.table_rows, last_position + 1), dtype=torch.float64)
        tables = []
        for pairs in (half - 2 * (half // 3), half // 3, half // 3):
            angles = torch.outer(positions, 10_000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs))
            tables.append(torch.polar(torch.ones_like(angles), angles))
        return tables[0], tables[1], tables[2]


def _turns(table: Table, frames: Positions, rows: Positions, columns: Positions) -> Tensor:
    """The factors [L, D/2] of a grid, frame-major."""
    axes = []
    for of_axis, wanted in zip(table, (frames, rows, columns), strict=True):
        turns = of_axis[[abs(position) for position in wanted]]
        axes.append(torch.where(torch.tensor(list(wanted))[:, None] < 0, turns.conj(), turns))
    shape = (len(frames), len(rows), len(columns), -1)
    grid = [axes[0][:, None, None].expand(shape), axes[1][None, :, None].expand(shape), axes[2].expand(shape)]
    return torch.cat(grid, dim=-1).flatten(0, 2)


def _spread(size: int, count: int) -> list[int]:
    """``count`` of the positions 0 .. size - 1, truncated toward zero."""
    positions: list[int] = np.linspace(0, size - 1, count).astype(int).tolist()
    return positions


def _turn(x: Tensor, turns: Tensor) -> Tensor:
    """Multiplies pairs of channels of ``x`` [1, L, H, D] by ``turns`` [L, D/2] in complex128."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2).float()


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of [1, L, H, D]; returns [1, L, C]."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def _norm(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps)
