"""The networks that training moves, and what each of their forwards is given.

``SpeechToVideo`` is the denoiser with its audio token encoder; ``Batch`` is what a forward needs besides noise.  The
forwards themselves are those that serve (``live_avatar.model``): here is decided only which pattern attends and how
audio is cut.

Letters: B clips, F latents, N blocks, S hidden states, D audio width, T audio frames, L text rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

from live_avatar.config import Preset
from live_avatar.model.attention import SelfAttend
from live_avatar.model.attention_patterns import Geometry, block_causal_attention, joint_attention
from live_avatar.model.audio_tokens import AudioTokenEncoder, AudioTokens
from live_avatar.model.dit import CausalDiT, NoisyInput, TextKV
from live_avatar.model.kv_cache import rolling_reference_position
from live_avatar.streaming.schedule import TIMESTEP_SCALE

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips of one length, on the device."""

    latents: Tensor
    """[B, 16, F, h, w] clean, of whole blocks"""
    speech: Tensor
    """[B, S, D, T] speech hidden states, one per video frame"""
    text: Tensor
    """[B, L, text_dim] states of the prompt"""
    reference: Tensor
    """[B, 16, 1, h, w]"""
    motion: Tensor | None
    """[B, 16, n, h, w]; None where the model uses no motion tokens"""
    weight: Tensor
    """[B, h, w] how much each latent pixel counts in a loss, 1 on average"""

    def __len__(self) -> int:
        return self.latents.shape[0]

    def take(self, index: int) -> "Batch":
        """The batch of the clip at ``index`` alone."""
        return self._each(lambda tensor: tensor[index : index + 1])

    def to(self, dtype: torch.dtype) -> "Batch":
        """The batch in another precision."""
        return self._each(lambda tensor: tensor.to(dtype))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        parts: dict[str, Any] = {
            name: None if tensor is None else change(tensor) for name, tensor in vars(self).items()
        }
        return Batch(**parts)


class SpeechToVideo(nn.Module):
    """The denoiser and its audio token encoder, as one module."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.dit = CausalDiT(preset.dit)
        self.audio = AudioTokenEncoder(preset.dit)

    def forward(self, compute: Callable[Concatenate["SpeechToVideo", P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs ``compute`` with this network: inside, and only there, are parameters of a sharded one at hand."""
        return compute(self, *args, **kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights, and so of what goes in."""
        return self.dit.patch_embedding.weight.dtype


def geometry_of(network: SpeechToVideo, latents: Tensor) -> Geometry:
    """The size of ``latents`` [..., h, w]."""
    return Geometry(config=network.dit.config, height=latents.shape[-2], width=latents.shape[-1])


def velocity(
    network: SpeechToVideo, batch: Batch, noisy: Tensor, levels: Tensor, audio: AudioTokens, pattern: SelfAttend
) -> Tensor:
    """The predicted velocity (noise - clean) [B, 16, F, h, w] of ``noisy`` at ``levels`` [B, R] in 0..1.

    Sink and noisy latents go through the network together.
    """
    dit = network.dit
    time = dit.embed_time(TIMESTEP_SCALE * levels)
    sink = dit.sink_input(batch.reference, batch.motion)
    result = dit(
        NoisyInput(latent=noisy.to(network.dtype), time=time, audio=audio), sink, text_of(dit, batch.text), pattern
    )
    assert isinstance(result, Tensor)
    return result


def text_of(dit: CausalDiT, states: Tensor) -> TextKV:
    """The prompt's keys and values.

    Its states are made part of the graph although nobody asks for their gradient: sharded parameters learn from an
    input's gradient that their own are complete, and here a frozen embedding would be the only input.
    """
    return dit.embed_text(states.detach().requires_grad_(torch.is_grad_enabled()))


def bidirectional_velocity(network: SpeechToVideo, batch: Batch, noisy: Tensor, level: Tensor) -> Tensor:
    """The velocity of whole clips at one ``level`` [B] each, where everything sees everything (spec 10.3)."""
    batch = batch.to(network.dtype)
    pattern = joint_attention(geometry_of(network, noisy), noisy.shape[2], noisy.device)
    return velocity(network, batch, noisy, level[:, None], network.audio(batch.speech), pattern)


def causal_velocity(
    network: SpeechToVideo, batch: Batch, noisy: Tensor, levels: Tensor, place: "Place", window_blocks: int
) -> Tensor:
    """The velocity of whole clips with a level per block, ``levels`` [B, N], as a stream would see them (spec 10.2)."""
    batch = batch.to(network.dtype)
    latents_per_block = noisy.shape[2] // levels.shape[1]
    pattern = block_causal_attention(
        geometry_of(network, noisy),
        first_frame=place.first_frame,
        latents_per_block=latents_per_block,
        window_blocks=window_blocks,
        reference_positions=place.reference_positions(latents_per_block, network.dit.config.reference_position),
        device=noisy.device,
    )
    audio = audio_of_blocks(network.audio, batch.speech, levels.shape[1])
    return velocity(network, batch, noisy, levels, audio, pattern)


@dataclass(frozen=True)
class Place:
    """Where in a session a clip stands, for its rotary positions."""

    first_frame: int
    """Frame position of its first latent."""
    distances: tuple[int, ...]
    """How far ahead of each block the reference stands."""

    def reference_positions(self, latents_per_block: int, prefill_position: int) -> tuple[int, ...]:
        """The reference's frame position as each block sees it."""
        return tuple(
            rolling_reference_position(self.first_frame + block * latents_per_block, distance, prefill_position)
            for block, distance in enumerate(self.distances)
        )


def audio_of_blocks(encoder: AudioTokenEncoder, speech: Tensor, blocks: int) -> AudioTokens:
    """Audio tokens of clips whose blocks are encoded one by one, as in a stream, from ``speech`` [B, S, D, T]."""
    alone = encoder(rearrange(speech, "b s d (n t) -> (b n) s d t", n=blocks))
    return AudioTokens(
        local=rearrange(alone.local, "(b n) a f k c -> b a (n f) k c", n=blocks),
        glob=rearrange(alone.glob, "(b n) a f c -> b a (n f) c", n=blocks),
    )


def audio_of_block(tokens: AudioTokens, block: int, latents_per_block: int) -> AudioTokens:
    """The tokens of one block of a clip."""
    part = slice(block * latents_per_block, (block + 1) * latents_per_block)
    return AudioTokens(tokens.local[:, :, part], tokens.glob[:, :, part])


def initialise(network: SpeechToVideo, seed: int) -> None:
    """Weights to start training from nothing: matrices keep the size of what they multiply, and layers begin small.

    The head begins at zero, what is added without a gate is small, gates are half open, and hidden states are mixed
    evenly from far enough above zero that the sum of their weights cannot pass through it.
    """
    random = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
        elif name.endswith("modulation"):
            parameter.data.zero_()
            if parameter.shape[1] > max(_GATES):
                parameter.data[:, list(_GATES)] = 0.5
        elif parameter.dim() >= 2 and name != "audio.mix":
            spread = _gain(name) / parameter[0].numel() ** 0.5
            parameter.data.copy_(torch.randn(parameter.shape, generator=random) * spread)
    network.audio.mix.data.fill_(1.0)


_GATES = (2, 5)
"""Rows of a layer's modulation that scale what attention and feed-forward add."""


def _gain(name: str) -> float:
    """How large the matrix ``name`` begins, 1 for the size that keeps its input's."""
    if name.endswith("head.linear.weight"):
        return 0.0
    added = ("cross_attn.o.weight", "audio.attention.o.weight", "time_projection.weight", "token_kind.weight")
    return 0.2 if name.endswith(added) else 1.0
