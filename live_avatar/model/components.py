"""The five networks of a system by name, and the four sets of public files that hold them.

The one table that knows every network: what loads, checks, converts or lists weights asks here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from live_avatar.config import DataType, Preset
from live_avatar.model import audio_tokens, checkpoint, dit, lora, novelty, speech, text, vae
from live_avatar.model.weight_files import Manifest, Shape, WeightFiles, WeightsError, open_weights

DTYPES: dict[DataType, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ADAPTER = "adapter"
"""File set of the adapter that makes the base model causal."""
PORTRAITS = "portraits"
"""File set of what the training portraits are like; weights may come without it."""
VAE_DIGEST = "vae_digest"
"""Key in the manifest of ``PORTRAITS``: the digest of the autoencoder that they were measured with."""
TRAINED_ON = "trained_on"
"""Key beside it: what the portraits are, in words."""
BASE_DIGEST = "base_digest"
"""Key in an adapter's manifest: the digest of the weights it was trained on; the public adapter has none."""


@dataclass(frozen=True)
class Component:
    """One network: which files hold it, how it is built, how its tensors are called in public."""

    file_set: str
    build: Callable[[Preset], nn.Module]
    names: Callable[[Preset], dict[str, str]]
    dtype: Callable[[Preset], DataType] = lambda preset: preset.dtype


COMPONENTS = {
    "dit": Component("dit", lambda preset: dit.CausalDiT(preset.dit), lambda preset: dit.public_names(preset.dit)),
    "audio": Component(
        "dit",
        lambda preset: audio_tokens.AudioTokenEncoder(preset.dit),
        lambda preset: audio_tokens.public_names(preset.dit),
    ),
    "vae": Component(
        "vae",
        lambda preset: vae.VAE(preset.vae),
        lambda preset: vae.public_names(preset.vae),
        lambda preset: preset.vae_dtype,
    ),
    "text": Component(
        "text",
        lambda preset: text.build_text_encoder(preset.text),
        lambda preset: text.public_names(preset.text),
    ),
    "speech": Component(
        "speech",
        lambda preset: speech.build_speech_encoder(preset.speech),
        lambda preset: speech.public_names(preset.speech),
    ),
}
FILE_SETS = tuple(dict.fromkeys(component.file_set for component in COMPONENTS.values()))


def build_on_meta(preset: Preset, component: str) -> nn.Module:
    """The network ``component`` without memory, frozen and in eval mode.

    Raises:
        ValueError: there is no such network.
    """
    with torch.device("meta"):
        return _component(component).build(preset).requires_grad_(False).eval()


def public_shapes(preset: Preset, file_set: str) -> dict[str, Shape]:
    """Every key of a public file set with its shape; takes no memory for weights.

    Raises:
        ValueError: there is no such file set.
    """
    if file_set == ADAPTER:
        names = COMPONENTS["dit"].names(preset)
        return lora.adapter_shapes(build_on_meta(preset, "dit"), names, preset.lora)
    if file_set == PORTRAITS:
        return novelty.shapes(preset.vae)
    if file_set not in FILE_SETS:
        known = ", ".join((*FILE_SETS, ADAPTER, PORTRAITS))
        raise ValueError(f"unknown file set {file_set!r}; there are {known}")
    shapes: dict[str, Shape] = {}
    for name, component in COMPONENTS.items():
        if component.file_set == file_set:
            shapes |= component_shapes(preset, name)
    return shapes


def component_shapes(preset: Preset, component: str) -> dict[str, Shape]:
    """Every public key of one network with its shape; takes no memory for weights."""
    return checkpoint.public_shapes(build_on_meta(preset, component), COMPONENTS[component].names(preset))


def load(
    preset: Preset,
    component: str,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """The network ``component`` with the converted weights of ``folder``, frozen and in eval mode.

    Args:
        dtype: the preset's if None.

    Raises:
        ValueError: there is no such network.
        WeightsError: the weights are not there, not of this preset, or not what the manifest says.
    """
    module, parts = build_on_meta(preset, component), _component(component)
    weights = open_converted(preset, parts.file_set, folder)
    checkpoint.load_module(
        module,
        parts.names(preset),
        weights,
        expected=public_shapes(preset, parts.file_set),
        dtype=dtype or DTYPES[parts.dtype(preset)],
        device=device,
    )
    return module


def merge_adapter(preset: Preset, model: nn.Module, folder: Path) -> None:
    """Merges the converted adapter of ``folder`` into a loaded ``dit``.

    Raises:
        WeightsError: the adapter is not there, not of this preset, trained on other weights than those of ``folder``,
            or does not fit; the model is then as it was.
    """
    weights, base = open_converted(preset, ADAPTER, folder), open_converted(preset, "dit", folder)
    assert weights.manifest is not None and base.manifest is not None
    stands_on = weights.manifest.config.get(BASE_DIGEST, base.manifest.digest)
    if stands_on != base.manifest.digest:
        raise WeightsError(f"{weights.source}: trained on a base of digest {stands_on}, here is {base.manifest.digest}")
    weights.verify()
    tensors = {key: tensor.clone() for key, tensor in checkpoint.map_tensors(weights, weights.entries)}
    lora.merge(model, COMPONENTS["dit"].names(preset), tensors, preset.lora, source=str(weights.source))


def load_training_portraits(preset: Preset, folder: Path) -> novelty.TrainingPortraits | None:
    """What the portraits were like that the weights of ``folder`` were trained on; None where they have no description.

    Raises:
        WeightsError: it is damaged, or was measured with another autoencoder than that of ``folder``.
    """
    if not (folder / PORTRAITS).is_dir():
        return None
    weights = open_converted(preset, PORTRAITS, folder)
    assert weights.manifest is not None
    weights.difference(public_shapes(preset, PORTRAITS)).raise_if_any()
    weights.verify()
    tensors = {key: tensor.clone() for key, tensor in checkpoint.map_tensors(weights, weights.entries)}
    trained_on = str(weights.manifest.config.get(TRAINED_ON, ""))
    return novelty.TrainingPortraits.from_tensors(tensors, trained_on)


def open_converted(preset: Preset, file_set: str, folder: Path) -> WeightFiles:
    """The headers and the manifest of one converted file set under ``folder``.

    Raises:
        WeightsError: not converted, damaged, of another preset, or ``PORTRAITS`` of another autoencoder.
    """
    weights = open_weights(folder / file_set)
    if weights.manifest is None:
        raise WeightsError(f"{weights.source}: not converted: run live-avatar weights convert")
    found = (weights.manifest.preset, weights.manifest.component)
    wanted = preset.weights_name
    if found != (wanted, file_set):
        raise WeightsError(f"{weights.source}: holds {found[1]} of preset {found[0]}, not {file_set} of {wanted}")
    if file_set == PORTRAITS:
        _check_measured_with(open_converted(preset, "vae", folder).manifest, weights)
    return weights


def _check_measured_with(autoencoder: Manifest | None, portraits: WeightFiles) -> None:
    """Raises where the training portraits were measured with another autoencoder."""
    assert autoencoder is not None and portraits.manifest is not None
    digest = portraits.manifest.config.get(VAE_DIGEST)
    if digest != autoencoder.digest:
        message = f"measured with an autoencoder of digest {digest}, here is {autoencoder.digest}"
        raise WeightsError(f"{portraits.source}: {message}")


def _component(name: str) -> Component:
    if name not in COMPONENTS:
        raise ValueError(f"unknown component {name!r}; there are {', '.join(COMPONENTS)}")
    return COMPONENTS[name]
