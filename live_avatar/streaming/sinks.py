"""When a session's sink changes: first the portrait, later the model's own first latent (AAS, spec 2.7).

The one place of the rule: the roll-outs, the trainer's replay and the decoder service ask it.

Letters: F latents of a block, h and w latent pixels, L text rows.
"""

from dataclasses import dataclass

from torch import Tensor

from live_avatar.config import StreamConfig
from live_avatar.streaming.block import Conditioning, Sink

_SOURCE_BLOCK = 0
"""The block whose first latent becomes the sink."""


@dataclass(frozen=True)
class SinkSchedule:
    """Which sink holds from which block under ``rules``."""

    rules: StreamConfig

    def first(self, sink: Sink, text: Tensor) -> Conditioning:
        """What a session starts with: the portrait's ``sink`` and the prompt's states [L, text_dim]."""
        return Conditioning(from_block=0, sink=sink, text=text)

    def own_latent(self, index: int, latent: Tensor) -> Tensor | None:
        """The latent [16, 1, h, w] of the clean block ``index`` [16, F, h, w] that becomes a sink, or None."""
        return latent[:, :1] if index == _SOURCE_BLOCK else None

    def after_block(self, index: int, latent: Tensor, sink: Sink) -> Conditioning | None:
        """What changes once the clean block ``index`` [16, F, h, w] is there, or None.

        Args:
            index: of the block.
            latent: its clean latents.
            sink: the one that holds for the block.
        """
        own = self.own_latent(index, latent)
        return None if own is None else Conditioning(from_block=self.rules.sink_switch_block, sink=sink.own(own))
