"""The networks of one folder of weights, as the library's loop uses them.

Letters: N samples, S hidden states, D width, F video frames of a block, L text rows.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor
from transformers import PreTrainedModel, Wav2Vec2Model

from live_avatar.config import Preset
from live_avatar.model import components
from live_avatar.model.audio_tokens import AudioTokenEncoder
from live_avatar.model.convert import TOKENIZER
from live_avatar.model.dit import CausalDiT
from live_avatar.model.networks import open_networks
from live_avatar.model.text import TextEncoder, build_tokenizer
from live_avatar.model.vae import VAE
from live_avatar.streaming.audio_window import AudioWindow, encode_block
from live_avatar.streaming.resample import Samples


class Avatar:
    """All networks of a preset, on the CPU."""

    def __init__(self, preset: Preset, folder: Path, *, with_adapter: bool = True) -> None:
        """Loads them; without the adapter it is the base model that an adapter stands on.

        Raises:
            WeightsError: the weights are not there, not of this preset, or damaged.
        """
        self.preset, self.folder = preset, folder
        self.has_adapter = (folder / components.ADAPTER).is_dir()
        self.digest = open_networks(preset, folder).digest + ("" if with_adapter else " without adapter")
        dit, tokens, vae, speech, text = (
            components.load(preset, name, folder) for name in ("dit", "audio", "vae", "speech", "text")
        )
        if with_adapter and self.has_adapter:
            components.merge_adapter(preset, dit, folder)
        assert isinstance(dit, CausalDiT)
        assert isinstance(tokens, AudioTokenEncoder)
        assert isinstance(vae, VAE)
        assert isinstance(speech, Wav2Vec2Model)
        assert isinstance(text, PreTrainedModel)
        self.dit, self.tokens, self.vae, self._speech = dit, tokens, vae, speech
        self._text = TextEncoder(text, build_tokenizer(preset.text, folder / "text" / TOKENIZER), preset.dit.text_len)

    def features(self, pieces: Iterable[Samples]) -> Iterator[Tensor]:
        """Speech features [1, S, D, F] of every block of ``pieces`` [N], encoded as in a live session."""
        window = AudioWindow(self.preset)
        for piece in pieces:
            window.append(np.ascontiguousarray(piece, dtype=np.float32))
            yield from self._ready(window)
        window.finish()
        yield from self._ready(window)

    def text(self, prompt: str) -> Tensor:
        """[L, text_dim] states of ``prompt``."""
        return self._text.encode(prompt)

    def _ready(self, window: AudioWindow) -> Iterator[Tensor]:
        while window.ready():
            yield encode_block(self._speech, window.next_block())


def as_input(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """Pictures [..., H, W, 3] as the autoencoder takes them: [..., 3, H, W] in -1..1."""
    return rearrange(torch.from_numpy(pictures), "... h w c -> ... c h w").float() / 127.5 - 1
