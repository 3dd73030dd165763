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
from live_avatar.model.dit import CausalDiT, NoisyInput
from live_avatar.streaming.denoiser import Denoiser, StageSession
from live_avatar.streaming.draws import Draws
from live_avatar.streaming.schedule import Schedule


class CleanHistoryDenoiser(Denoiser):
    """All steps of a schedule, with one window that they share and whose history is clean."""

    def __init__(self, model: CausalDiT, rules: StreamConfig, schedule: Schedule, draws: Draws) -> None:
        super().__init__(model, rules, schedule, range(schedule.steps), draws)
        with torch.inference_mode():
            self._clean = model.embed_time(torch.zeros(1, 1, device=self.device))

    @property
    def windows_per_session(self) -> int:
        """One for all steps."""
        return 1

    def open(self, seed: int, geometry: Geometry) -> StageSession:
        """See ``Denoiser``."""
        return StageSession(seed=seed, geometry=geometry, windows=dict.fromkeys(self.steps, self._window(geometry)))

    def _remember(self, session: StageSession, latent: Tensor, audio: AudioTokens) -> None:
        """Writes the clean block's keys and values over those of the last step, and makes them history."""
        window = session.windows[0]
        # The pass is one more step in the count of the random numbers.
        distance = self.draws.distance(session.seed, window.block, self.schedule.steps)
        assert session.text is not None
        self._forward(NoisyInput(latent=latent, time=self._clean, audio=audio), session.text, window, distance)
        window.commit()
