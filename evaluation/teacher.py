"""The teacher: the bidirectional base model, which sees whole pieces of a clip at once and takes many small steps.

Letters: F latents, S hidden states, D width, T video frames, L text rows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from evaluation.avatar import Avatar
from live_avatar.streaming.block import Sink
from live_avatar.streaming.schedule import Schedule, shifted_sigma
from live_avatar.trainer.data import padded
from live_avatar.trainer.dmd import Score, guided
from live_avatar.trainer.network import Batch, SpeechToVideo, bidirectional_velocity
from live_avatar.trainer.presets import tiny, tiny_self_forcing

STEPS = 40
SHIFT = 3.0
"""Time shift of the base model's own sampling (spec 7)."""
PIECE_BLOCKS = tiny().blocks
"""Blocks that the base model has learned to see at once."""
GUIDANCE = tiny_self_forcing().guidance
"""As it guides the student: ``conditional + guidance * (conditional - unconditional)``."""


def teacher_schedule(steps: int = STEPS) -> Schedule:
    """Noise levels from 1 down."""
    levels = shifted_sigma(1 - torch.arange(steps, dtype=torch.float64) / steps, SHIFT)
    return Schedule(tuple(levels.tolist()))


@dataclass(frozen=True)
class PieceConditions:
    """Conditions from which a piece is generated."""

    sink: Sink
    text: Tensor
    """[L, text_dim] of the prompt."""
    no_text: Tensor
    """[L, text_dim] of no prompt."""
    speech: Tensor
    """[1, S, D, T] features of the piece."""


class Teacher:
    """Makes pieces of a clip, each for itself."""

    def __init__(self, avatar: Avatar, guidance: float = GUIDANCE, steps: int = STEPS) -> None:
        self.network = _network(avatar)
        self.guidance = guidance
        self.schedule = teacher_schedule(steps)

    @torch.inference_mode()
    def piece(self, conditions: PieceConditions, noise: Tensor) -> Tensor:
        """The latents [16, F, h, w] that grow from ``noise`` of that shape."""
        score, latents = self._score(conditions), noise[None]
        for step in range(self.schedule.steps):
            level = torch.tensor([self.schedule.sigmas[step]])
            latents = self.schedule.advance(latents, score(latents, level), step)
        return latents[0]

    def _score(self, conditions: PieceConditions) -> Score:
        """With guidance: away from what it would do without sound and prompt."""
        rows = self.network.dit.config.text_len
        sink = conditions.sink
        batch = Batch(
            latents=sink.reference[None],
            speech=conditions.speech,
            text=padded(conditions.text, rows)[None],
            reference=sink.reference[None],
            motion=None if sink.motion is None else sink.motion[None],
            weight=torch.ones(1, *sink.reference.shape[-2:]),
        )
        blank = replace(batch, text=padded(conditions.no_text, rows)[None], speech=torch.zeros_like(conditions.speech))
        return guided(self._plain(batch), self._plain(blank), self.guidance)

    def _plain(self, batch: Batch) -> Score:
        def score(noisy: Tensor, level: Tensor) -> Tensor:
            return bidirectional_velocity(self.network, batch, noisy, level)

        return score


def _network(avatar: Avatar) -> SpeechToVideo:
    """Denoiser and audio token encoder of ``avatar`` in the form that training knows."""
    with torch.device("meta"):
        network = SpeechToVideo(avatar.preset)
    parts: dict[str, nn.Module] = {"dit": avatar.dit, "audio": avatar.tokens}
    for name, part in parts.items():
        setattr(network, name, part)
    return network.eval()
