"""The wav2vec2 speech encoder: 16 kHz samples in, the hidden states of every layer out (spec 4.1).

The network itself is ``transformers.Wav2Vec2Model``; this file fixes its architecture, its names in the public
checkpoint and what of its output we use.  It knows nothing of video, blocks or streams.

Letters: B batch, N samples, S hidden states (layers + 1), T time steps of the encoder (50 Hz), D width.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, cast

import torch

from live_avatar.config import SpeechConfig

if TYPE_CHECKING:
    # Imported where it is called: it takes seconds, and a stage that only asks for names needs nothing of it.
    from transformers import Wav2Vec2Model

VARIANCE_EPS = 1e-7
"""Added to the variance of an utterance before its root is taken (spec 4.1 step 2)."""

PUBLIC_PREFIX = "wav2vec2."
UNUSED_PREFIX = "lm_head."
OLD_WEIGHT_NORM = {
    "pos_conv_embed.conv.weight_g": "pos_conv_embed.conv.parametrizations.weight.original0",
    "pos_conv_embed.conv.weight_v": "pos_conv_embed.conv.parametrizations.weight.original1",
}
"""Spelling of the positional convolution in files saved before weight norm became a parametrisation."""


def hop_samples(config: SpeechConfig) -> int:
    """Samples from one hidden state to the next."""
    return prod(config.conv_stride)


def receptive_samples(config: SpeechConfig) -> int:
    """Samples the convolutions read for one hidden state; shorter input has none."""
    samples = 1
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples


def build_speech_encoder(config: SpeechConfig) -> Wav2Vec2Model:
    """The encoder of ``config`` with random weights, in eval mode.

    Under ``torch.device("meta")`` it takes no memory.  Dropout, layer drop and masking are off for good; the unused
    mask vector exists all the same, because the public checkpoint has it.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    # transformers creates the mask vector only where mask_time_prob > 0; apply_spec_augment=False keeps it unused.
    architecture = Wav2Vec2Config(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.ffn_dim,
        conv_dim=config.conv_dim,
        conv_kernel=config.conv_kernel,
        conv_stride=config.conv_stride,
        num_conv_pos_embeddings=config.position_kernel,
        num_conv_pos_embedding_groups=config.position_groups,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.05,
        apply_spec_augment=False,
    )
    model = Wav2Vec2Model(architecture)
    model.set_attn_implementation("sdpa")
    model.eval()
    return model


def normalise(waveform: torch.Tensor) -> torch.Tensor:
    """A whole utterance at zero mean and unit variance, float32 [N] (spec 4.1 step 2).

    Raises:
        ValueError: the waveform is empty or not one-dimensional.
    """
    if waveform.ndim != 1 or not waveform.numel():
        raise ValueError(f"a waveform is [N] with N > 0, not {list(waveform.shape)}")
    samples = waveform.double()
    return ((samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + VARIANCE_EPS)).float()


@torch.no_grad()
def hidden_states(model: Wav2Vec2Model, samples: torch.Tensor) -> torch.Tensor:
    """All hidden states of normalised ``samples`` [B, N], as [B, S, T, D] in the model's dtype (spec 4.1 step 3).

    State 0 is the input of the first layer; the last is the output of the last layer after the final norm, all
    others are the plain residual stream.
    """
    output = model(samples.to(model.device, model.dtype), output_hidden_states=True)
    # Versions of transformers differ in whether the last entry has passed the final norm; last_hidden_state always has.
    residual = cast(tuple[torch.Tensor, ...], output.hidden_states)[:-1]
    return torch.stack((*residual, output.last_hidden_state), dim=1)


def normalise_key(public: str) -> str | None:
    """The one spelling of a public parameter name, or None for a tensor this encoder has no use for.

    Files differ in the ``wav2vec2.`` prefix, in the name of the weight norm and in whether a letter head is present.
    """
    if public.startswith(UNUSED_PREFIX):
        return None
    key = public.removeprefix(PUBLIC_PREFIX)
    for old, new in OLD_WEIGHT_NORM.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def public_names(config: SpeechConfig) -> dict[str, str]:
    """Public parameter name (as ``normalise_key`` spells it) to ours; the two are equal."""
    with torch.device("meta"):
        return {name: name for name in build_speech_encoder(config).state_dict()}
