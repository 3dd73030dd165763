"""Rotary position embedding over frame, row and column (spec 1.8).

Angles are computed from the positions themselves, in float64, so there is no table and no last position: ten
hours into a session is as good as the first block.  This file knows nothing of layers, caches or blocks.

Letters: B batch, F latents, L tokens, H heads, D head width.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from live_avatar.config import MOTION_GROUPS, DiTConfig


@dataclass(frozen=True)
class Rotation:
    """The rotation of every complex pair of channels: ``cos`` and ``sin``, each [L, D/2] float32."""

    cos: Tensor
    sin: Tensor

    def rotate(self, x: Tensor) -> Tensor:
        """Rotates channels (2p, 2p+1) of ``x`` [B, L, H, D] as one complex number; same shape and dtype."""
        pairs = x.float().unflatten(-1, (-1, 2))
        if not torch.compiler.is_compiling():
            rotated = self._in_one_operator(pairs)
        else:
            rotated = self._exchanged(pairs) if pairs.is_cuda else self._stacked(pairs)
        return rotated.flatten(-2).to(x.dtype)

    def _in_one_operator(self, pairs: Tensor) -> Tensor:
        """The product of complex numbers [B, L, H, D/2, 2] with the rotation; the compiler fuses no complex product."""
        return torch.view_as_real(torch.view_as_complex(pairs) * self._complex)

    def _stacked(self, pairs: Tensor) -> Tensor:
        """The same product written out."""
        real, imaginary = pairs.unbind(-1)
        cos, sin = self.cos[:, None], self.sin[:, None]
        return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)

    def _exchanged(self, pairs: Tensor) -> Tensor:
        """The same again without a stack, which on a GPU goes to memory in float32 before anything is done with it."""
        cos, sin = self.cos[:, None, :, None], self.sin[:, None, :, None]
        sign = 2 * torch.arange(2, device=pairs.device) - 1
        return pairs * cos + pairs.flip(-1) * (sin * sign)

    @cached_property
    def _complex(self) -> Tensor:
        return torch.complex(self.cos, self.sin)[:, None]


def join(*rotations: Rotation) -> Rotation:
    """The rotations of several runs of tokens, one after the other."""
    return Rotation(torch.cat([r.cos for r in rotations]), torch.cat([r.sin for r in rotations]))


def pairs_per_axis(head_dim: int) -> tuple[int, int, int]:
    """Complex pairs that encode frame, row and column: 22, 21, 21 of 64."""
    spatial = head_dim // 2 // 3
    return head_dim // 2 - 2 * spatial, spatial, spatial


def grid_rotation(config: DiTConfig, frames: Tensor, rows: Tensor, columns: Tensor) -> Rotation:
    """The rotation of a grid of tokens, frame-major, then row, then column.

    Args:
        config: head width and base of the frequencies.
        frames: [F] frame positions; negative ones are the past before block 0.
        rows: [h] row positions.
        columns: [w] column positions.
    """
    shape = (len(frames), len(rows), len(columns))
    frame_pairs, row_pairs, column_pairs = pairs_per_axis(config.head_dim)
    angles = (
        _angles(frames, frame_pairs, config.rope_theta)[:, None, None],
        _angles(rows, row_pairs, config.rope_theta)[None, :, None],
        _angles(columns, column_pairs, config.rope_theta)[None, None, :],
    )
    cos = torch.cat([a.cos().float().expand(*shape, -1) for a in angles], dim=-1)
    sin = torch.cat([a.sin().float().expand(*shape, -1) for a in angles], dim=-1)
    return Rotation(cos.flatten(0, 2), sin.flatten(0, 2))


def latent_rotation(config: DiTConfig, frames: Tensor, height: int, width: int) -> Rotation:
    """The rotation of whole latents of ``height`` x ``width`` latent pixels at frame positions ``frames`` [F]."""
    _, patch_h, patch_w = config.patch
    rows = torch.arange(height // patch_h, device=frames.device)
    columns = torch.arange(width // patch_w, device=frames.device)
    return grid_rotation(config, frames, rows, columns)


def motion_rotation(config: DiTConfig, height: int, width: int, device: torch.device) -> Rotation:
    """The rotation of the motion tokens, which stay at negative frame positions for ever (spec 1.8)."""
    _, patch_h, patch_w = config.patch
    groups = []
    for group in MOTION_GROUPS:
        kernel_t, kernel_h, kernel_w = group.kernel
        oldest = group.newest + group.latents - 1
        axes = (
            _spread(-oldest, -group.newest, group.latents // kernel_t),
            _spread(0, height // patch_h - 1, height // kernel_h),
            _spread(0, width // patch_w - 1, width // kernel_w),
        )
        groups.append(grid_rotation(config, *(axis.to(device) for axis in axes)))
    return join(*groups)


def _spread(first: int, last: int, count: int) -> Tensor:
    """``count`` integer positions from ``first`` to ``last``, truncated toward zero as the reference does."""
    return torch.from_numpy(np.linspace(first, last, count).astype(np.int64))


def _angles(positions: Tensor, pairs: int, theta: float) -> Tensor:
    """[n, pairs] float64 angles of integer positions [n]."""
    exponents = torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs
    return positions.double()[:, None] * theta**-exponents
