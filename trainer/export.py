"""A checkpoint to weights that serve: public key names, a manifest, the layout that ``live-avatar weights`` checks.

A run on every weight becomes the file set ``dit``; an adapter becomes ``adapter``, which names the digest of the base
it stands on.  Nothing is overwritten, and nothing half-written is taken for weights.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from live_avatar.config import Preset
from live_avatar.config import preset as preset_named
from live_avatar.files import check_output_folder
from live_avatar.model import audio_tokens, checkpoint, components, dit
from live_avatar.model.networks import random_network
from live_avatar.model.weight_files import MANIFEST, Manifest, WeightsError
from live_avatar.trainer.adapters import STUDENT, adapter_keys
from live_avatar.trainer.presets import ExportConfig
from live_avatar.trainer.state import CheckpointError, newest, read_all
from live_avatar.trainer.training import CHECKPOINTS, RUN


def export(config: ExportConfig) -> Manifest:
    """Writes the newest checkpoint of a run into ``config.output``.

    Raises:
        CheckpointError: no such run, or a damaged checkpoint.
        WeightsError: the folder holds these weights already, or a base that the adapter does not stand on.
    """
    described, path = _find(config.checkpoint)
    check_output_folder(config.output)
    preset = preset_named(described["config"]["preset"])
    state = read_all(path)
    kind = "average" if config.average else "weights"
    if described["config"]["train_adapter"]:
        _check_base(preset, config.output, described["base_digest"])
        tensors = _stored_as(config.dtype, _adapter(preset, state, f"{STUDENT}.{kind}."))
        facts = {components.BASE_DIGEST: described["base_digest"], "rank": preset.lora.rank, "alpha": preset.lora.alpha}
        return _write(config.output / components.ADAPTER, tensors, preset, components.ADAPTER, facts)
    tensors = _stored_as(config.dtype, _whole(preset, state, f"{STUDENT}.{kind}."))
    return _write(config.output / "dit", tensors, preset, "dit", {})


def write_text_encoder(preset: Preset, folder: Path) -> Manifest:
    """Writes a text encoder with random weights: frozen, it still distinguishes prompts, and the denoiser learns them.

    Raises:
        WeightsError: the folder holds a text encoder already.
    """
    module, names = random_network(preset, "text"), components.COMPONENTS["text"].names(preset)
    return _write(folder / "text", checkpoint.public_state(module, names).items(), preset, "text", {})


def _find(folder: Path) -> tuple[dict[str, Any], Path]:
    """What the run was, and its newest checkpoint."""
    run = folder if (folder / RUN).exists() else folder.parent.parent
    try:
        described: dict[str, Any] = json.loads((run / RUN).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no {RUN}, so not a training run: {error}") from error
    return described, newest(run / CHECKPOINTS if run == folder else folder)


def _whole(preset: Preset, state: dict[str, Tensor], prefix: str) -> Iterable[tuple[str, Tensor]]:
    """Every tensor of the file set ``dit`` under its public key."""
    names = {public: f"dit.{ours}" for public, ours in dit.public_names(preset.dit).items()}
    names |= {public: f"audio.{ours}" for public, ours in audio_tokens.public_names(preset.dit).items()}
    shapes = components.public_shapes(preset, "dit")
    tensors = {public: _take(state, prefix + ours) for public, ours in names.items()}
    checkpoint.tensor_difference(tensors, shapes, "checkpoint").raise_if_any()
    return tensors.items()


def _adapter(preset: Preset, state: dict[str, Tensor], prefix: str) -> Iterable[tuple[str, Tensor]]:
    model = components.build_on_meta(preset, "dit")
    assert isinstance(model, dit.CausalDiT)
    keys = adapter_keys(model, preset.lora, STUDENT)
    return [(public, _take(state, f"{prefix}dit.{ours}")) for public, ours in keys.items()]


def _stored_as(
    dtype: Literal["", "float32", "bfloat16"], tensors: Iterable[tuple[str, Tensor]]
) -> Iterable[tuple[str, Tensor]]:
    """``tensors`` in ``dtype``, one at a time; as they are if it is empty."""
    return ((key, tensor.to(components.DTYPES[dtype]) if dtype else tensor) for key, tensor in tensors)


def _take(state: dict[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(f"the checkpoint lacks {key}")
    return state[key]


def _check_base(preset: Preset, folder: Path, digest: str) -> None:
    """Raises if ``folder`` holds another base than that of ``digest``."""
    if not (folder / "dit" / MANIFEST).exists():
        return
    manifest = components.open_converted(preset, "dit", folder).manifest
    assert manifest is not None
    if manifest.digest != digest:
        raise WeightsError(f"{folder / 'dit'}: its digest is {manifest.digest}, the adapter stands on {digest}")


def _write(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], preset: Preset, component: str, facts: dict[str, Any]
) -> Manifest:
    return checkpoint.write_weights(folder, tensors, preset=preset.weights_name, component=component, config=facts)
