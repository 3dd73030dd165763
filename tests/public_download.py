"""A public download in miniature: random weights of TINY in the files, spellings and formats of the real one."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from live_avatar.config import TINY
from live_avatar.model import components

SPEECH_FOLDER = "wav2vec2-large-xlsr-53-english"
OLD_SPELLING = {
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv_embed.conv.weight_g",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv_embed.conv.weight_v",
}


def tensors_of(file_set: str) -> dict[str, Tensor]:
    """Random weights of TINY under their public keys, the same at every call."""
    generator = torch.Generator().manual_seed(7)
    shapes = components.public_shapes(TINY, file_set)
    return {key: torch.randn(shape, generator=generator).bfloat16() for key, shape in shapes.items()}


def write(folder: Path) -> None:
    """Writes all five file sets into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_denoiser(folder, tensors_of("dit"))
    torch.save(tensors_of("vae"), folder / "Wan2.1_VAE.pth")
    torch.save(tensors_of("text"), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    speech = {f"wav2vec2.{OLD_SPELLING.get(key, key)}": tensor for key, tensor in tensors_of("speech").items()}
    (folder / SPEECH_FOLDER).mkdir()
    torch.save(speech | {"lm_head.weight": torch.ones(3)}, folder / SPEECH_FOLDER / "pytorch_model.bin")
    adapter = {key.replace(".default.", "."): tensor for key, tensor in tensors_of(components.ADAPTER).items()}
    save_file({f"base_model.model.{key}": tensor for key, tensor in adapter.items()}, folder / "liveavatar.safetensors")


def _write_denoiser(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    listing: dict[str, str] = {}
    for shard in range(2):
        name = f"diffusion_pytorch_model-0000{shard + 1}-of-00002.safetensors"
        part = {key: tensor for place, (key, tensor) in enumerate(tensors.items()) if place % 2 == shard}
        save_file(part, folder / name)
        listing |= dict.fromkeys(part, name)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listing}))
    (folder / "config.json").write_text(json.dumps(public_config()))


def public_config() -> dict[str, object]:
    """The ``config.json`` of TINY in public terms."""
    ours = asdict(TINY.dit)
    same = ("dim", "ffn_dim", "num_heads", "num_layers", "audio_dim", "text_dim", "text_len", "freq_dim")
    public = {key: ours[key] for key in same}
    return public | {"num_audio_token": ours["audio_tokens"], "audio_inject_layers": list(ours["audio_layers"])}
