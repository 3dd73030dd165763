"""The nouns that walk the pipeline: a block, the conditioning that holds for many, and what a session goes on from.

Letters: F latents of a block, h and w latent pixels, L text rows.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from live_avatar.model.audio_tokens import AudioTokens


@dataclass(frozen=True)
class Sink:
    """Clean latents that every block attends to."""

    version: int
    """0: from the reference image; 1: the model's own first latent (AAS); later ones: a new portrait."""
    reference: Tensor
    """[16, 1, h, w]"""
    motion: Tensor | None
    """[16, n, h, w] past latents, oldest first; None where the model uses no motion tokens."""

    def own(self, latent: Tensor) -> "Sink":
        """The next version: the reference replaced by the model's own ``latent`` [16, 1, h, w] (spec 2.7)."""
        return replace(self, version=self.version + 1, reference=latent)


@dataclass(frozen=True)
class Conditioning:
    """What holds from a block on; a part that is None stays as it was."""

    from_block: int
    sink: Sink | None = None
    text: Tensor | None = None
    """[L, text_dim] states of the prompt, valid rows alone."""


@dataclass(frozen=True)
class Block:
    """Three consecutive latents on their way from noise to clean."""

    index: int
    """Position in the session, from 0."""
    audio: AudioTokens
    latent: Tensor | None = None
    """[16, F, h, w]; None until the first stage has drawn its noise."""


@dataclass(frozen=True)
class Primed:
    """What a session goes on from: the last finished blocks of an earlier incarnation of it."""

    blocks: tuple[Block, ...]
    """Consecutive, oldest first, each with its clean latents; at least one, at most ``window_blocks``."""
    changes: tuple[Conditioning, ...] = ()
    """Conditioning since the session's first, in the order of its blocks: the model's own sink, later prompts."""

    @property
    def first_block(self) -> int:
        """Index of the oldest block."""
        return self.blocks[0].index

    @property
    def next_block(self) -> int:
        """Index of the block that is generated next."""
        return self.blocks[-1].index + 1
