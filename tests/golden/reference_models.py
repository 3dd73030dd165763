"""Builds our networks from a golden's configuration and the reference's weights."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Wav2Vec2Model

from live_avatar.config import (
    DiTConfig,
    LoRAConfig,
    Preset,
    SpeechConfig,
    StreamConfig,
    TextConfig,
    VAEConfig,
    dit_config_from_public,
)
from live_avatar.model import audio_tokens, dit, speech, text, vae
from live_avatar.model.audio_tokens import AudioTokenEncoder, AudioTokens
from live_avatar.model.dit import CausalDiT
from live_avatar.model.vae import VAE

from .conftest import Golden


def load(module: nn.Module, names: Mapping[str, str], weights: Mapping[str, Tensor]) -> None:
    """Loads public ``weights`` into ``module``: every tensor of ``names``, and nothing left over in the module."""
    module.load_state_dict({ours: weights[public] for public, ours in names.items()}, strict=True)
    module.requires_grad_(False).eval()


def dit_config(public: dict[str, Any], weights: Mapping[str, Tensor], motion_frames: list[int]) -> DiTConfig:
    """Our configuration of the golden's model."""
    history, latents = motion_frames
    return dit_config_from_public(
        public,
        audio_states=weights["casual_audio_encoder.weights"].shape[1],
        audio_history_frames=history,
        audio_history_latents=latents,
    )


def dit_pair(golden: Golden, section: str = "model") -> tuple[CausalDiT, AudioTokenEncoder]:
    """The denoiser and the audio token encoder of ``golden``."""
    config = golden.meta["config"]
    return dit_from(golden, config[section], config["weights"], config["motion_frames"])


def dit_from(
    golden: Golden, public: dict[str, Any], weights_file: str, motion_frames: list[int]
) -> tuple[CausalDiT, AudioTokenEncoder]:
    """Both networks from one public state dict, which they use up completely."""
    weights = golden.weights(weights_file)
    config = dit_config(public, weights, motion_frames)
    denoiser, audio = CausalDiT(config), AudioTokenEncoder(config)
    denoiser_names, audio_names = dit.public_names(config), audio_tokens.public_names(config)
    assert set(weights) == set(denoiser_names) | set(audio_names)
    load(denoiser, denoiser_names, weights)
    load(audio, audio_names, weights)
    return denoiser, audio


def record_layers(model: CausalDiT) -> list[Tensor]:
    """A list that every following forward fills with the output of each layer."""
    outputs: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    return outputs


def speaker(tokens: AudioTokens) -> tuple[Tensor, Tensor]:
    """Local tokens [B, F, N, C] and global vector [B, F, 1, C] of the only speaker, as the reference shapes them."""
    return tokens.local[:, 0], tokens.glob[:, 0, :, None]


def weights_config(golden: Golden, weights_file: str) -> dict[str, Any]:
    """What the JSON beside a weights file says of the network."""
    config: dict[str, Any] = json.loads((golden.folder / weights_file).with_suffix(".json").read_text())["config"]
    return config


def vae_config(public: dict[str, Any]) -> VAEConfig:
    """Our configuration of the golden's autoencoder."""
    return VAEConfig(
        dim=public["dim"],
        latent_channels=public["z_dim"],
        multipliers=tuple(public["dim_mult"]),
        residual_blocks=public["num_res_blocks"],
        temporal_downsample=tuple(public["temperal_downsample"]),
    )


def vae_from(golden: Golden, public: dict[str, Any], weights_file: str) -> VAE:
    """The autoencoder of ``golden``."""
    config = vae_config(public)
    network = VAE(config)
    load(network, vae.public_names(config), golden.weights(weights_file))
    return network


def speech_config(golden: Golden, weights_file: str) -> SpeechConfig:
    """Our configuration of the golden's speech encoder."""
    public = weights_config(golden, weights_file)
    return SpeechConfig(
        hidden_size=public["hidden_size"],
        num_layers=public["num_hidden_layers"],
        num_heads=public["num_attention_heads"],
        ffn_dim=public["intermediate_size"],
        conv_dim=tuple(public["conv_dim"]),
        position_kernel=public["num_conv_pos_embeddings"],
        position_groups=public["num_conv_pos_embedding_groups"],
    )


def speech_from(golden: Golden, weights_file: str) -> tuple[SpeechConfig, Wav2Vec2Model]:
    """The speech encoder of ``golden``."""
    config = speech_config(golden, weights_file)
    network = speech.build_speech_encoder(config)
    load(network, speech.public_names(config), speech_weights(golden, weights_file))
    return config, network


def speech_weights(golden: Golden, weights_file: str) -> dict[str, Tensor]:
    """The speech encoder's weights under the one spelling that we read."""
    spelled = {speech.normalise_key(key): value for key, value in golden.weights(weights_file).items()}
    return {key: value for key, value in spelled.items() if key is not None}


def text_config(golden: Golden, weights_file: str) -> TextConfig:
    """Our configuration of the golden's text encoder."""
    public = weights_config(golden, weights_file)
    return TextConfig(
        vocab_size=public["vocab"],
        dim=public["dim"],
        attention_dim=public["dim_attn"],
        ffn_dim=public["dim_ffn"],
        num_heads=public["num_heads"],
        num_layers=public["num_layers"],
        buckets=public["num_buckets"],
    )


def text_from(golden: Golden, weights_file: str) -> tuple[TextConfig, PreTrainedModel]:
    """The text encoder of ``golden``."""
    config = text_config(golden, weights_file)
    network = text.build_text_encoder(config)
    load(network, text.public_names(config), golden.weights(weights_file))
    return config, network


def e2e_preset(golden: Golden) -> Preset:
    """The whole system of an end-to-end golden."""
    config = golden.meta["config"]
    rules = StreamConfig(
        fps=config["fps"],
        latents_per_block=config["frames_per_block"],
        window_blocks=config["window_blocks"],
        steps=config["steps"],
        sink_switch_block=config["blocks_per_clip"],
        reference_frames=1,
    )
    return Preset(
        name=golden.name,
        dit=dit_config(config["dit"], golden.weights(config["weights"]), config["motion_frames"]),
        vae=vae_config(config["vae"]),
        speech=speech_config(golden, config["wav2vec2_weights"]),
        text=text_config(golden, config["t5_weights"]),
        stream=rules,
        lora=LoRAConfig(),
        max_area=config["max_area"],
        dtype="float32",
        vae_dtype="float32",
    )
