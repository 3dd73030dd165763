"""Where a process gets its networks from: a folder of converted weights, or random weights for a trial.

Random weights make every service start without a download.  They are a function of preset, network and key alone, so
that every process draws the same bits, and scaled so that signals neither die nor explode on their way through.
What they paint is noise.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from live_avatar.config import Preset, preset_json
from live_avatar.model import checkpoint, components
from live_avatar.model.convert import TOKENIZER
from live_avatar.model.novelty import TrainingPortraits
from live_avatar.model.text import build_tokenizer
from live_avatar.model.weight_files import WeightsError, model_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RANDOM_SEED = 0
"""Of the random weights; part of their digest."""
MAX_RANDOM_PARAMETERS = 50_000_000
"""Of the largest system that is tried with random weights: noise is not worth waiting for."""
_BIAS_STD = 0.02
_DIGEST_CHARACTERS = 16


@dataclass(frozen=True)
class Networks:
    """The networks of one system, built on demand."""

    preset: Preset
    folder: Path | None
    """Converted weights; None: random ones."""
    digest: str
    """Equal on all processes that have the same weights."""
    device: torch.device

    @property
    def description(self) -> str:
        """What was loaded, for one line of a log."""
        if self.folder is None:
            return f"{self.preset.name}, random weights (seed {RANDOM_SEED}): the picture is noise"
        return f"{self.preset.name}, weights of {self.folder} ({self.digest[:_DIGEST_CHARACTERS]})"

    def load(self, component: str) -> nn.Module:
        """The network ``component`` on the device, in the preset's precision, frozen and in eval mode.

        A ``dit`` has the adapter of the folder merged into it, where there is one.

        Raises:
            ValueError: there is no such network.
            WeightsError: the weights are not there, not of this preset, or damaged.
        """
        if self.folder is None:
            return random_network(self.preset, component).to(self.device)
        module = components.load(self.preset, component, self.folder, device=self.device)
        if component == "dit" and (self.folder / components.ADAPTER).is_dir():
            components.merge_adapter(self.preset, module, self.folder)
        return module

    def training_portraits(self) -> TrainingPortraits | None:
        """What the portraits were like that the weights were trained on; None where they have no description.

        Raises:
            WeightsError: the description is damaged, or belongs to another autoencoder.
        """
        return None if self.folder is None else components.load_training_portraits(self.preset, self.folder)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the text encoder.

        Raises:
            ValueError: its files are not beside the weights.
        """
        folder = None if self.folder is None else self.folder / "text" / TOKENIZER
        return build_tokenizer(self.preset.text, folder)


def open_networks(
    preset: Preset, folder: Path | None, device: torch.device | str = "cpu", *, expected_digest: str = ""
) -> Networks:
    """Finds the networks of ``preset``; reads manifests, but no weights yet.

    Args:
        preset: the system.
        folder: converted weights; None: random ones.
        device: where the networks go.
        expected_digest: ``model_digest`` that the weights must have; empty: any.

    Raises:
        WeightsError: ``folder`` lacks a file set, holds another preset or other weights than expected; or there is
            none and ``preset`` is too large to try with random weights.
    """
    if folder is None and parameter_count(preset) > MAX_RANDOM_PARAMETERS:
        raise WeightsError(
            f"preset {preset.name} needs a folder of weights; "
            f"only one of at most {MAX_RANDOM_PARAMETERS} parameters runs with random ones, such as TINY"
        )
    if folder is None and expected_digest:
        raise WeightsError(f"random weights are not those with the digest {expected_digest}")
    digest = _random_digest(preset) if folder is None else _digest(preset, folder, expected_digest)
    return Networks(preset, folder, digest, torch.device(device))


def parameter_count(preset: Preset) -> int:
    """Parameters of all networks of ``preset``; takes no memory for them."""
    shapes = (components.component_shapes(preset, name) for name in components.COMPONENTS)
    return sum(math.prod(shape) for network in shapes for shape in network.values())


def random_network(preset: Preset, component: str) -> nn.Module:
    """The network ``component`` with random weights on the CPU, the same bits in every process."""
    module = components.build_on_meta(preset, component)
    parts = components.COMPONENTS[component]
    names = parts.names(preset)
    dtype = components.DTYPES[parts.dtype(preset)]
    shapes = checkpoint.public_shapes(module, names)
    tensors = {key: _random(f"{RANDOM_SEED}/{preset.name}/{component}/{key}", shape) for key, shape in shapes.items()}
    checkpoint.assign(module, names, {key: tensor.to(dtype) for key, tensor in tensors.items()})
    return module


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    """A random parameter by its role: gains are 1, biases small, and matrices keep the size of what they multiply."""
    if name.endswith("bias"):
        std = _BIAS_STD
    elif sum(side > 1 for side in shape) <= 1:
        return torch.ones(shape)
    else:
        std = 1 / math.sqrt(math.prod(shape[1:]))
    # numpy's generator gives the same bits on every kind of processor; that of torch does not promise it.
    generator = np.random.Generator(np.random.Philox(key=crc32(name.encode())))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)) * std


def _random_digest(preset: Preset) -> str:
    """Of random weights: they follow from the preset, of which several may share a name."""
    described = hashlib.sha256(preset_json(preset).encode()).hexdigest()
    return f"random:{preset.name}:{RANDOM_SEED}:{described[:_DIGEST_CHARACTERS]}"


def _digest(preset: Preset, folder: Path, expected: str) -> str:
    """SHA-256 over the preset and the manifests of all file sets, the adapter's included where there is one."""
    whole = hashlib.sha256(preset_json(preset).encode())
    manifests = []
    for file_set in (*components.FILE_SETS, components.ADAPTER):
        if file_set == components.ADAPTER and not (folder / file_set).is_dir():
            continue
        weights = components.open_converted(preset, file_set, folder)
        assert weights.manifest is not None
        manifests.append(weights.manifest)
        whole.update(f"{file_set}={weights.manifest.digest};".encode())
    if expected and model_digest(manifests) != expected:
        raise WeightsError(f"{folder}: digest of the weights is {model_digest(manifests)}, expected is {expected}")
    return whole.hexdigest()
