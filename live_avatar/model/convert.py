"""The offline converter: a download of the public checkpoints in, verified safetensors with manifests out.

The only place that opens a ``.pth``, and only with ``weights_only``.  Everything is checked before the first byte is
written; a run that was interrupted goes on where it stopped.  Tensors keep their public names and element types.
"""

import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from live_avatar.config import Preset, dit_config_from_public
from live_avatar.model import checkpoint, components, lora, speech
from live_avatar.model.weight_files import (
    MANIFEST,
    DamagedFileError,
    Manifest,
    Shape,
    SurplusTensorError,
    WeightsError,
    open_weights,
    read_json,
)

_T = TypeVar("_T")

TOKENIZER = "tokenizer"
"""Folder beside the text weights for the vocabulary."""

_TOKENIZER_SOURCE = "google/umt5-xxl"
_SOURCES = {
    "dit": ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors"),
    "vae": ("Wan2.1_VAE.safetensors", "Wan2.1_VAE.pth"),
    "text": ("models_t5_umt5-xxl-enc-bf16.safetensors", "models_t5_umt5-xxl-enc-bf16.pth"),
    "speech": (
        "wav2vec2-large-xlsr-53-english/model.safetensors",
        "wav2vec2-large-xlsr-53-english/pytorch_model.bin",
    ),
    components.ADAPTER: ("liveavatar.safetensors",),
}
"""Where the public download keeps each file set, best first."""

_KEY_RULES: dict[str, Callable[[str], str | None]] = {
    "speech": speech.normalise_key,
    components.ADAPTER: lora.normalise_key,
}


def source(folder: Path, file_set: str) -> Path:
    """The file that begins ``file_set`` in the public download ``folder``.

    Raises:
        ValueError: there is no such file set.
        WeightsError: the download has no such file; the message says which were looked for.
    """
    if file_set not in _SOURCES:
        raise ValueError(f"unknown file set {file_set!r}; there are {', '.join(_SOURCES)}")
    for name in _SOURCES[file_set]:
        if (folder / name).exists():
            return folder / name
    raise WeightsError(f"{folder}: no {' or '.join(_SOURCES[file_set])}, where {file_set} is looked for")


def convert(preset: Preset, file_set: str, path: Path, folder: Path) -> Manifest:
    """Converts the public file set that begins at ``path`` into ``folder / file_set``.

    What an earlier run has finished is verified and kept.

    Raises:
        WeightsError: the file is damaged, or its tensors are not those of the preset; nothing is written then.
    """
    target = folder / file_set
    if (target / MANIFEST).exists():
        kept = components.open_converted(preset, file_set, folder)
        kept.verify()
        assert kept.manifest is not None
        return kept.manifest
    config = _public_config(preset, path.parent / "config.json") if file_set == "dit" else {}
    tensors = _open(path, file_set, components.public_shapes(preset, file_set))
    if file_set == "text" and preset.text.tokenizer == "umt5":
        _copy_tokenizer(path.parent / _TOKENIZER_SOURCE, target / TOKENIZER)
    return checkpoint.write_weights(target, tensors, preset=preset.weights_name, component=file_set, config=config)


def _open(path: Path, file_set: str, expected: Mapping[str, Shape]) -> Iterable[tuple[str, Tensor]]:
    """The tensors of ``path`` under their public keys, read as they are asked for, once they are as expected."""
    rule = _KEY_RULES.get(file_set, str)
    if path.suffix in (".pth", ".bin"):
        tensors = _renamed(_load_pickle(path), rule, path)
        checkpoint.tensor_difference(tensors, expected, str(path)).raise_if_any()
        return tensors.items()
    weights = open_weights(path if path.suffix == ".safetensors" else path.parent)
    weights = replace(weights, entries=_renamed(weights.entries, rule, path))
    weights.difference(expected).raise_if_any()
    return checkpoint.map_tensors(weights, weights.entries)


def _renamed(tensors: Mapping[str, _T], rule: Callable[[str], str | None], path: Path) -> dict[str, _T]:
    """``tensors`` under the keys that ``rule`` gives them, without those it has no key for."""
    renamed: dict[str, _T] = {}
    for key, tensor in tensors.items():
        public = rule(key)
        if public in renamed:
            raise SurplusTensorError(f"{path}: tensor {public} is there twice, the second time as {key}")
        if public is not None:
            renamed[public] = tensor
    return renamed


def _load_pickle(path: Path) -> dict[str, Tensor]:
    """The state dict of a ``.pth``: tensors only, nothing of it is ever executed."""
    try:
        is_zip = zipfile.is_zipfile(path)
        damaged = zipfile.ZipFile(path).testzip() if is_zip else None
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}") from error
    if damaged is not None:
        raise DamagedFileError(f"{path}: damaged: the checksum of its part {damaged} is wrong")
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DamagedFileError(f"{path}: not a state dict: expected tensors by name")
    return content


def _public_config(preset: Preset, path: Path) -> dict[str, Any]:
    """The public ``config.json``, or empty where there is none.

    Raises:
        WeightsError: it describes another network than the preset.
    """
    if not path.exists():
        return {}
    ours = asdict(preset.dit)
    known = ours | {
        "num_audio_token": ours["audio_tokens"],
        "audio_inject_layers": ours["audio_layers"],
        "in_dim": ours["latent_channels"],
    }
    public = read_json(path)
    try:
        found, wanted = (asdict(dit_config_from_public(config)) for config in (known | public, known))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from error
    other = [f"{key}={found[key]!r}, not {wanted[key]!r}" for key in wanted if found[key] != wanted[key]]
    if other:
        raise WeightsError(f"{path}: not the network of preset {preset.name}: {'; '.join(other)}")
    return public


def _copy_tokenizer(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise WeightsError(f"{source}: the tokenizer's folder is missing")
    shutil.copytree(source, target, dirs_exist_ok=True)
