"""Encodes a clip as a training sample: the outputs of all frozen networks.

Latents are those of serving: the clip follows a still clip of its reference, as a session follows its portrait, and
the reference and motion latents are those of the still clip (spec 2.7).  Speech is encoded as in serving, whole or as
a stream, alternately.

Letters: T frames, H and W pixels, h and w latent pixels, F latents.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import cast
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from live_avatar.config import MOTION_LATENTS, Preset
from live_avatar.model import components
from live_avatar.model.convert import TOKENIZER
from live_avatar.model.text import TextEncoder, build_tokenizer
from live_avatar.model.vae import VAE
from live_avatar.streaming.audio_grid import whole_file_features
from live_avatar.streaming.audio_window import AudioWindow, encode_block
from live_avatar.trainer.annotations import NO_ANNOTATIONS, ClipAnnotations, ClipError
from live_avatar.trainer.clip import Clip
from live_avatar.trainer.data import Sample

TOGETHER = 4
"""Clips encoded at a time."""
ENCODERS = ("vae", "speech", "text")


class SampleEncoder:
    """The frozen networks of a preset, as they turn clips into samples."""

    def __init__(self, preset: Preset, folder: Path, device: torch.device) -> None:
        """Loads the networks.

        Raises:
            WeightsError: one is not in ``folder``, or damaged.
        """
        self.preset, self.device = preset, device
        # A CPU without bfloat16 units takes many times as long in it; the encoder is exact in both.
        exact = torch.float32 if device.type == "cpu" else None
        loaded = {
            name: components.load(preset, name, folder, dtype=exact if name == "vae" else None, device=device)
            for name in ENCODERS
        }
        self.vae = cast(VAE, loaded["vae"])
        self.speech = loaded["speech"]
        tokenizer = build_tokenizer(preset.text, folder / "text" / TOKENIZER)
        self.text = TextEncoder(loaded["text"], tokenizer, preset.dit.text_len)  # type: ignore[arg-type]
        self.dtype = components.DTYPES[preset.dtype]

    def encode(self, clip: Clip, annotations: ClipAnnotations = NO_ANNOTATIONS) -> Sample:
        """The sample of ``clip``: ``encode_all`` of it alone."""
        return self.encode_all([(clip, annotations)])[0]

    def encode_all(self, clips: Sequence[tuple[Clip, ClipAnnotations]]) -> list[Sample]:
        """A sample of each clip, of as many whole blocks as it has, on the CPU in the preset's precision.

        Neighbours of the same length go through the autoencoder together, which is faster on a CPU.

        Raises:
            ClipError: one is shorter than one block.
        """
        samples: list[Sample] = []
        for _, run in groupby(clips, key=lambda pair: self._usable_frames(pair[0])):
            equal = list(run)
            for first in range(0, len(equal), TOGETHER):
                together = equal[first : first + TOGETHER]
                latents = self.latents(torch.stack([self._with_portrait(*pair) for pair in together]))
                samples += [self._sample(*pair, part) for pair, part in zip(together, latents, strict=True)]
        return samples

    def _sample(self, clip: Clip, annotations: ClipAnnotations, latents: Tensor) -> Sample:
        """The sample of a clip whose frames, with the still clip before them, have ``latents`` [16, F, h, w]."""
        frames = self._usable_frames(clip)
        still_latent = (self.preset.stream.reference_frames - 1) // self.preset.vae.temporal_factor
        return Sample(
            latents=self._kept(latents[:, MOTION_LATENTS:]),
            speech=self._kept(self.speech_features(clip.samples, frames, as_stream=bool(_number(clip) % 2))),
            text=self._kept(self.text.encode(clip.prompt)),
            reference=self._kept(latents[:, still_latent : still_latent + 1]),
            motion=self._kept(latents[:, :MOTION_LATENTS]),
            important=self._kept(self.important(clip, annotations)),
        )

    def _usable_frames(self, clip: Clip) -> int:
        """Frames of the whole blocks of ``clip``."""
        frames = len(clip.frames) // self.preset.frames_per_block * self.preset.frames_per_block
        if not frames:
            raise ClipError(f"too short: {len(clip.frames)} frames")
        return frames

    def _with_portrait(self, clip: Clip, annotations: ClipAnnotations) -> Tensor:
        frames = clip.frames[: self._usable_frames(clip)]
        return self.with_still(
            frames, frames[_number(clip) % len(frames)] if annotations.portrait is None else annotations.portrait
        )

    def with_still(self, frames: "npt.NDArray[np.uint8]", portrait: "npt.NDArray[np.uint8]") -> Tensor:
        """The clip [T, H, W, 3] after a still clip of ``portrait`` [H, W, 3]: [3, 73 + T, H, W] in [-1, 1]."""
        held = 1 + (MOTION_LATENTS - 1) * self.preset.vae.temporal_factor
        still = np.broadcast_to(portrait, (held, *portrait.shape))
        pixels = torch.from_numpy(np.concatenate([still, frames]))
        return rearrange(pixels, "t h w c -> c t h w").float() / 127.5 - 1

    @torch.inference_mode()
    def latents(self, videos: Tensor) -> Tensor:
        """[B, 16, F, h, w] of videos [B, 3, 1 + 4 (F - 1), H, W]."""
        return self.vae.encode(videos.to(self.device))

    def speech_features(self, samples: "npt.NDArray[np.float32]", frames: int, *, as_stream: bool) -> Tensor:
        """[S, D, T] speech hidden states of the first ``frames`` video frames."""
        wanted = frames * self.preset.samples_per_block // self.preset.frames_per_block
        audio = np.ascontiguousarray(samples[:wanted], dtype=np.float32)
        if not as_stream:
            whole = whole_file_features(self.speech, torch.from_numpy(audio), self.preset)  # type: ignore[arg-type]
            return whole[0, ..., :frames]
        window, parts = AudioWindow(self.preset), []
        for block in np.split(audio, frames // self.preset.frames_per_block):
            window.append(block)
            while window.ready():
                parts.append(encode_block(self.speech, window.next_block())[0])  # type: ignore[arg-type]
        window.finish()
        while window.ready():
            parts.append(encode_block(self.speech, window.next_block())[0])  # type: ignore[arg-type]
        return torch.cat(parts, dim=-1)

    def important(self, clip: Clip, annotations: ClipAnnotations) -> Tensor:
        """[h, w]: 1 where a latent pixel touches what is important, 0 elsewhere."""
        factor = self.preset.vae.spatial_factor
        marked = torch.zeros(clip.frames.shape[1:3])
        if annotations.important is not None:
            top, left, bottom, right = annotations.important
            marked[top:bottom, left:right] = 1
        return rearrange(marked, "(h p) (w q) -> h w (p q)", p=factor, q=factor).amax(dim=-1)

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor.to("cpu", self.dtype).clone().contiguous()


def _number(clip: Clip) -> int:
    """What stands for chance in a clip: the same wherever and whenever it is prepared."""
    return crc32(clip.name.encode())
