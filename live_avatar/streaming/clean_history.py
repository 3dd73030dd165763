"""The other kind of history: every block goes through the network once more when it is clean, and is remembered so.

The usual way of causal video diffusion, and the baseline that Timestep-forcing Pipeline Parallelism is compared with.
Since a block must be finished before the next one may begin, the steps cannot be split over stages; and each block
costs one forward more.
"""

import torch
from torch import Tensor

from live_avatar.config import StreamConfig
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.compiled_step import StepForward
from live_avatar.model.dit import CausalDiT, NoisyInput, TextKV, TimeEmbedding
from live_avatar.model.kv_cache import KVWindow
from live_avatar.streaming.denoiser import Denoiser, StageSession
from live_avatar.streaming.rng import Rng
from live_avatar.streaming.schedule import Schedule


def clean_time(model: CausalDiT) -> TimeEmbedding:
    """The embedding of noise level 0."""
    return model.embed_time(torch.zeros(1, 1, device=model.patch_embedding.weight.device))


def remember_clean(
    forward: StepForward, clean: NoisyInput, text: TextKV, window: KVWindow, reference_offset: int
) -> None:
    """Makes a block history with the keys and values of its ``clean`` latents, over those of the block last begun."""
    forward(clean, text, window, reference_offset)
    window.commit()


class CleanHistoryDenoiser(Denoiser):
    """All steps of a schedule, with one window that they share and whose history is clean."""

    def __init__(self, model: CausalDiT, rules: StreamConfig, schedule: Schedule, rng: Rng) -> None:
        super().__init__(model, rules, schedule, range(schedule.steps), rng)
        with torch.inference_mode():
            self._clean = clean_time(model)

    @property
    def windows_per_session(self) -> int:
        """One for all steps."""
        return 1

    def open(self, seed: int, geometry: Geometry, first_block: int = 0) -> StageSession:
        """See ``Denoiser``."""
        windows = dict.fromkeys(self.steps, self._window(geometry, first_block))
        return StageSession(seed=seed, geometry=geometry, windows=windows)

    def _remember(self, session: StageSession, latent: Tensor, audio: AudioTokens) -> None:
        """Writes the clean block's keys and values over those of the last step, and makes them history."""
        window = session.windows[0]
        # The pass is one more step in the count of the random numbers.
        reference_offset = self.rng.reference_offset(session.seed, window.block, self.schedule.steps)
        assert session.text is not None
        clean = NoisyInput(latent=latent, time=self._clean, audio=audio)
        remember_clean(self._forward, clean, session.text, window, reference_offset)
