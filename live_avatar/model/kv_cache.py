"""The K/V window: what a denoising step remembers of a session (spec 2.4).

One preallocated pair of tensors per layer, laid out [sink | slot 0 | slot 1 | ...], so that the keys a block
attends to are always one contiguous prefix: no ``cat``, no mask.  Ring keys are stored rotated at their absolute
position.  The sink's values and motion keys are written once per sink; the reference's keys are kept un-rotated
and rotated into the front of the window by every forward (Rolling RoPE).

A block writes only into the slot of the block that leaves its window, and the window moves in ``commit`` alone:
a step that fails half-way has changed nothing that a retry could see.

Letters: B batch, L tokens, S tokens per latent, H heads, D head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from live_avatar.model.attention import attend
from live_avatar.model.attention_patterns import Geometry, SinkPrefill, SinkStates
from live_avatar.model.rope import Rotation, motion_rotation


def rolling_reference_position(first_frame: int, reference_offset: int, prefill_position: int) -> int:
    """Frame position of the reference seen by the block at ``first_frame``: ``reference_offset`` ahead (spec 2.6)."""
    return max(prefill_position, first_frame + reference_offset)


@dataclass(frozen=True)
class LayerWindow:
    """Memory of one layer: ``k`` and ``v`` [B, L, H, D], and the reference's un-rotated keys [B, S, H, D]."""

    k: Tensor
    v: Tensor
    reference_k: Tensor


@dataclass(frozen=True)
class Place:
    """Where the next block of a window stands, as plain numbers."""

    first_frame: int
    """Frame position of the block's first latent."""
    reference_frame: int
    """Frame position of the reference as the block sees it."""
    slot: int
    """First token of the slot that the block writes."""
    visible: int
    """Length of the prefix that the block attends to."""


@dataclass(frozen=True)
class StreamingAttention:
    """One block attends to its window and the sink, and writes its own keys and values there (spec 2.3)."""

    layers: tuple[LayerWindow, ...]
    block_rotation: Rotation
    reference_rotation: Rotation
    slot_tokens: Tensor
    """[L] where the block's tokens are written."""
    visible: int
    """Length of the prefix that the block attends to."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Rotates and stores the block's keys and the reference's, then attends to the visible prefix."""
        window = self.layers[layer]
        # Written by index where a slice would do: the compiler makes a whole new window of a write to a slice.
        front = torch.arange(window.reference_k.shape[1], device=k.device)
        _write(window.k, front, self.reference_rotation.rotate(window.reference_k))
        _write(window.k, self.slot_tokens, self.block_rotation.rotate(k))
        _write(window.v, self.slot_tokens, v)
        keys, values = (memory[:, : self.visible].to(q.dtype) for memory in (window.k, window.v))
        return attend(self.block_rotation.rotate(q), keys, values)


def _write(memory: Tensor, tokens: Tensor, values: Tensor) -> None:
    """Stores ``values`` [B, L, H, D] at ``tokens`` [L], rounded to the type of the memory."""
    if memory.dtype.itemsize == 1:  # nothing can be indexed in 8-bit floats but their bytes
        memory, values = memory.view(torch.uint8), values.to(memory.dtype).view(torch.uint8)
    memory.index_copy_(1, tokens, values)


class KVWindow:
    """Rolling K/V history of one session at one noise level, with its sink."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        latents_per_block: int,
        window_blocks: int,
        first_block: int = 0,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocates everything the window will ever need; ``first_block`` is the first that comes, without history."""
        config = geometry.config
        self.geometry = geometry
        self.latents_per_block = latents_per_block
        self.window_blocks = window_blocks
        self.first_block = first_block
        self.device = torch.device(device)
        self.block_tokens = latents_per_block * geometry.latent_tokens
        self._motion_rotation = (
            motion_rotation(config, geometry.height, geometry.width, self.device) if config.use_motion else None
        )

        def zeros(tokens: int) -> Tensor:
            return torch.zeros(batch, tokens, config.num_heads, config.head_dim, dtype=dtype, device=self.device)

        tokens = geometry.sink_tokens + window_blocks * self.block_tokens
        self.layers = tuple(
            LayerWindow(zeros(tokens), zeros(tokens), zeros(geometry.latent_tokens)) for _ in range(config.num_layers)
        )
        self.reset()

    def reset(self) -> None:
        """Forgets all blocks and the sink; memory stays allocated."""
        self.block = self.first_block
        self.has_sink = False

    @property
    def nbytes(self) -> int:
        """Bytes this window holds."""
        return sum(t.nbytes for layer in self.layers for t in (layer.k, layer.v, layer.reference_k))

    def prefill(self) -> SinkPrefill:
        """The pattern for the forward that computes a sink; hand its states to ``set_sink``."""
        return SinkPrefill(self.geometry.sink_rotation(self.geometry.config.reference_position, self.device))

    def set_sink(self, states: SinkStates) -> None:
        """Replaces the sink by the keys and values of a prefill; the history stays (spec 2.7)."""
        reference = self.geometry.latent_tokens
        for layer, k, v in zip(self.layers, states.keys, states.values, strict=True):
            layer.v[:, : v.shape[1]].copy_(v)
            layer.reference_k.copy_(k[:, :reference])
            if self._motion_rotation is not None:
                layer.k[:, reference : k.shape[1]].copy_(self._motion_rotation.rotate(k[:, reference:]))
        self.has_sink = True

    def begin(self, reference_offset: int) -> StreamingAttention:
        """The pattern for the forward of the next block, with the reference ``reference_offset`` frames ahead of it.

        Raises:
            RuntimeError: no sink has been set since the last reset.
        """
        place = self.place(reference_offset)
        return StreamingAttention(
            layers=self.layers,
            block_rotation=self.geometry.noisy_rotation(self._position(place.first_frame), self.latents_per_block),
            reference_rotation=self.geometry.reference_rotation(self._position(place.reference_frame)),
            slot_tokens=torch.arange(place.slot, place.slot + self.block_tokens, device=self.device),
            visible=place.visible,
        )

    def place(self, reference_offset: int) -> Place:
        """Where the next block stands, with the reference ``reference_offset`` frames ahead of it.

        Raises:
            RuntimeError: no sink has been set since the last reset.
        """
        if not self.has_sink:
            raise RuntimeError("the window has no sink yet: prefill and set_sink come before the first block")
        first = self.block * self.latents_per_block
        sink, remembered = self.geometry.sink_tokens, self.block - self.first_block
        return Place(
            first_frame=first,
            reference_frame=rolling_reference_position(
                first, reference_offset, self.geometry.config.reference_position
            ),
            slot=sink + remembered % self.window_blocks * self.block_tokens,
            visible=sink + min(remembered + 1, self.window_blocks) * self.block_tokens,
        )

    def commit(self) -> None:
        """Makes the block last begun part of the history."""
        self.block += 1

    def _position(self, frame: int) -> Tensor:
        return torch.tensor(frame, device=self.device)
