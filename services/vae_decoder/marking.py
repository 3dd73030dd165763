"""Opens the mark of each session, where the deployment has a key."""

import torch

from live_avatar.config import Preset
from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.services.vae_decoder.settings import WatermarkSettings
from live_avatar.watermark.carrier import carrier_of
from live_avatar.watermark.embedding import Clock, Marker
from live_avatar.watermark.payload import session_number


class SessionMarks:
    """Marks of all sessions of a deployment."""

    def __init__(self, settings: WatermarkSettings, preset: Preset, device: torch.device) -> None:
        key = settings.key
        self._carrier = None if key is None else carrier_of(key.get_secret_value().encode())
        self._deployment = settings.deployment
        self._device = device
        self._clock = Clock(
            fps=preset.stream.fps,
            frames_per_block=preset.frames_per_block,
            dropped_frames=preset.stream.dropped_frames,
        )

    def open(self, key: SessionKey) -> Marker | None:
        """The mark of a session, the same in every epoch; None without a key."""
        if self._carrier is None:
            return None
        session = session_number(key.session_id)
        return Marker(self._carrier, self._clock, deployment=self._deployment, session=session, device=self._device)
