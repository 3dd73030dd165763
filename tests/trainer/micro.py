"""A system small enough to train in a test, and data for it.

Letters: F latents of a clip, h and w latent pixels.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from live_avatar.config import (
    MOTION_LATENTS,
    DiTConfig,
    LoRAConfig,
    Preset,
    SpeechConfig,
    StreamConfig,
    TextConfig,
    VAEConfig,
    preset_json,
)
from live_avatar.model import checkpoint, components
from live_avatar.model.networks import random_network
from live_avatar.trainer.data import NEGATIVE_TEXT, SAMPLE_FIELDS
from live_avatar.trainer.presets import FlowMatchingConfig, SelfForcingConfig, tiny, tiny_self_forcing

HEIGHT, WIDTH = 8, 8
CHANNELS = 4
MICRO = Preset(
    name="MICRO",
    dit=DiTConfig(
        dim=24, ffn_dim=48, num_heads=2, num_layers=2, audio_layers=(0, 1), audio_dim=8, audio_states=3, text_dim=8,
        text_len=6, latent_channels=CHANNELS, freq_dim=16,
    ),
    vae=VAEConfig(dim=4, latent_channels=CHANNELS, mean=(0.0,) * CHANNELS, std=(1.0,) * CHANNELS),
    speech=SpeechConfig(hidden_size=8, num_layers=2, num_heads=2, ffn_dim=16, conv_dim=(8,) * 7, position_groups=4),
    text=TextConfig(
        vocab_size=384, dim=8, attention_dim=8, ffn_dim=16, num_heads=2, num_layers=1, tokenizer="bytes"
    ),
    stream=StreamConfig(left_context_s=1.0),
    lora=LoRAConfig(rank=4, alpha=4.0),
    max_area=64 * 64,
    dtype="float32",
    vae_dtype="float32",
)  # fmt: skip


def preset_file(folder: Path, preset: Preset = MICRO) -> str:
    """``preset`` as a file that configurations can name."""
    path = folder / f"{preset.name.lower()}.json"
    path.write_text(preset_json(preset))
    return str(path)


def write_weights(folder: Path, preset: Preset = MICRO) -> Path:
    """A folder of converted weights with random networks."""
    for file_set in components.FILE_SETS:
        tensors: dict[str, Tensor] = {}
        for name, parts in components.COMPONENTS.items():
            if parts.file_set == file_set:
                tensors |= checkpoint.public_state(random_network(preset, name), parts.names(preset))
        checkpoint.write_weights(folder / file_set, tensors.items(), preset=preset.name, component=file_set)
    return folder


def sample_tensors(seed: int, blocks: int) -> dict[str, Tensor]:
    """The parts of a random sample."""
    random = torch.Generator().manual_seed(seed)
    latents, dit = 3 * blocks, MICRO.dit
    shapes = {
        "latents": (CHANNELS, latents, HEIGHT, WIDTH),
        "speech": (dit.audio_states, dit.audio_dim, 4 * latents),
        "text": (4, dit.text_dim),
        "reference": (CHANNELS, 1, HEIGHT, WIDTH),
        "motion": (CHANNELS, MOTION_LATENTS, HEIGHT, WIDTH),
        "important": (HEIGHT, WIDTH),
    }
    assert tuple(shapes) == SAMPLE_FIELDS
    drawn = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return drawn | {"important": (drawn["important"] > 1).float()}


def write_data(folder: Path, *, shards: int = 3, samples: int = 4, blocks: int = 4, source: str = "micro") -> Path:
    """A data set of random samples."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"text": torch.zeros(1, MICRO.dit.text_dim)}, folder / NEGATIVE_TEXT)
    for shard in range(shards):
        tensors = {
            f"{position:04}.{name}": tensor
            for position in range(samples)
            for name, tensor in sample_tensors(100 * shard + position, blocks).items()
        }
        save_file(tensors, folder / f"clips-{shard:06}.safetensors", metadata={"source": source})
    return folder


def flow_config(folder: Path, **changes: Any) -> FlowMatchingConfig:
    """A short run on random data from nothing, everything trained."""
    data = folder / "data"
    if not data.exists():
        write_data(data)
    short: dict[str, Any] = {
        "preset": changes.get("preset") or preset_file(folder), "data": data, "output": folder / "run", "steps": 6,
        "batch": 4, "blocks": 3, "log_every": 1, "save_every": 2, "warmup_steps": 2, "ema_from": 2,
    }  # fmt: skip
    return replace(tiny(), **(short | changes))


def self_forcing_config(folder: Path, **changes: Any) -> SelfForcingConfig:
    """A short distillation of random weights."""
    data, weights = folder / "data", folder / "weights"
    if not data.exists():
        write_data(data)
    if not weights.exists():
        write_weights(weights)
    short: dict[str, Any] = {
        "preset": changes.get("preset") or preset_file(folder), "data": data, "weights": weights,
        "output": folder / "run", "steps": 4, "batch": 2, "blocks": 4, "log_every": 1, "save_every": 2,
        "fake_warmup": 0, "generator_every": 1, "ema_from": 1,
    }  # fmt: skip
    return replace(tiny_self_forcing(), **(short | changes))
