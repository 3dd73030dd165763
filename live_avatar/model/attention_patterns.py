"""Who attends to whom: the three patterns of self-attention that need no memory.

The fourth, attention of a block to its window, belongs to the memory itself: ``kv_cache.StreamingAttention``.

Letters: B batch, F latents, S tokens per latent, L tokens, H heads, D head width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from live_avatar.config import DiTConfig
from live_avatar.model.attention import attend
from live_avatar.model.rope import Rotation, join, latent_rotation, motion_rotation


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The size of what one forward sees, in latent pixels."""

    config: DiTConfig
    height: int
    width: int

    @property
    def latent_tokens(self) -> int:
        """Tokens of one latent."""
        return self.config.tokens_per_latent(self.height, self.width)

    @property
    def sink_tokens(self) -> int:
        """Tokens of the sink."""
        return self.config.sink_tokens(self.height, self.width)

    def noisy_rotation(self, first_frame: Tensor, latents: int) -> Rotation:
        """Rotation of ``latents`` consecutive latents, the first at frame position ``first_frame`` (0-d integer)."""
        frames = first_frame + torch.arange(latents, device=first_frame.device)
        return latent_rotation(self.config, frames, self.height, self.width)

    def reference_rotation(self, position: Tensor) -> Rotation:
        """Rotation of the reference at frame ``position`` (0-d integer)."""
        return latent_rotation(self.config, position[None], self.height, self.width)

    def sink_rotation(self, reference_position: int, device: torch.device) -> Rotation:
        """Rotation of all sink tokens with the reference at ``reference_position``."""
        reference = self.reference_rotation(torch.tensor(reference_position, device=device))
        if not self.config.use_motion:
            return reference
        return join(reference, motion_rotation(self.config, self.height, self.width, device))


@dataclass(frozen=True)
class JointAttention:
    """Every token attends to every token, noisy and sink alike: the bidirectional base model (spec 10.3)."""

    rotation: Rotation

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Rotates and attends."""
        return attend(self.rotation.rotate(q), self.rotation.rotate(k), v)


def joint_attention(geometry: Geometry, latents: int, device: torch.device) -> JointAttention:
    """The pattern of one bidirectional forward over ``latents`` noisy latents and the sink."""
    noisy = geometry.noisy_rotation(torch.tensor(0, device=device), latents)
    return JointAttention(join(noisy, geometry.sink_rotation(geometry.config.reference_position, device)))


@dataclass(frozen=True)
class SinkStates:
    """What a sink prefill leaves: un-rotated keys and values of every layer, each [B, L, H, D]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class SinkPrefill:
    """Sink tokens attend to one another; their un-rotated keys and values are collected (spec 2.5)."""

    rotation: Rotation
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Collects, rotates and attends."""
        self.keys.append(k)
        self.values.append(v)
        return attend(self.rotation.rotate(q), self.rotation.rotate(k), v)

    def states(self) -> SinkStates:
        """The keys and values collected so far."""
        return SinkStates(tuple(self.keys), tuple(self.values))


@dataclass(frozen=True)
class BlockCausalAttention:
    """A whole clip as the stream would see it: each block attends to its window and the sink (spec 10.2).

    The sink's keys appear once per place where some token sees the reference: first where the sink sees
    itself, then once for every distinct rolling position.  The mask picks the right copy for every query.
    """

    noisy: Rotation
    sinks: tuple[Rotation, ...]
    mask: Tensor

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Rotates noisy tokens once and sink keys once per copy, then attends under the mask."""
        noisy = len(self.noisy.cos)
        queries = join(self.noisy, self.sinks[0]).rotate(q)
        sink_k, sink_v = k[:, noisy:], v[:, noisy:]
        keys = torch.cat([self.noisy.rotate(k[:, :noisy]), *(copy.rotate(sink_k) for copy in self.sinks)], dim=1)
        values = torch.cat([v[:, :noisy], *(sink_v for _ in self.sinks)], dim=1)
        return attend(queries, keys, values, self.mask)


def block_causal_attention(
    geometry: Geometry,
    *,
    first_frame: int = 0,
    latents_per_block: int,
    window_blocks: int,
    reference_positions: tuple[int, ...],
    device: torch.device,
) -> BlockCausalAttention:
    """The pattern of one forward over a clip of ``len(reference_positions)`` blocks.

    Args:
        geometry: size of the latents.
        first_frame: RoPE frame position of the clip's first latent.
        latents_per_block: latents of one block.
        window_blocks: blocks a block attends to, itself included.
        reference_positions: frame position of the reference as each block sees it.
        device: where the tables live.
    """
    blocks = len(reference_positions)
    places = tuple(dict.fromkeys((geometry.config.reference_position, *reference_positions)))
    block_of = torch.arange(blocks, device=device).repeat_interleave(latents_per_block * geometry.latent_tokens)
    age = block_of[:, None] - block_of[None, :]
    sees_noisy = (age >= 0) & (age < window_blocks)
    place_of = torch.tensor([places.index(position) for position in reference_positions], device=device)
    copy = torch.arange(len(places), device=device).repeat_interleave(geometry.sink_tokens)
    sees_sink = place_of[block_of][:, None] == copy[None, :]
    sink_rows = torch.cat([copy.new_zeros(len(block_of), dtype=torch.bool), copy == 0]).expand(geometry.sink_tokens, -1)
    return BlockCausalAttention(
        noisy=geometry.noisy_rotation(torch.tensor(first_frame, device=device), blocks * latents_per_block),
        sinks=tuple(geometry.sink_rotation(place, device) for place in places),
        mask=torch.cat([torch.cat([sees_noisy, sees_sink], dim=1), sink_rows]),
    )
