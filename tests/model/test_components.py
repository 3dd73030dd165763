"""Converted weights into the networks of a preset."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from live_avatar.config import TINY
from live_avatar.model import checkpoint, components, convert, lora
from live_avatar.model.weight_files import MisshapedTensorError, WeightsError

from .. import public_download


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file set of TINY, converted."""
    folder = tmp_path_factory.mktemp("components")
    public_download.write(folder / "public")
    for file_set in (*components.FILE_SETS, components.ADAPTER):
        source = convert.source(folder / "public", file_set)
        convert.convert(TINY, file_set, source, folder / "converted")
    return folder / "converted"


@pytest.mark.parametrize("component", components.COMPONENTS)
def test_each_network_gets_its_public_tensors(converted: Path, component: str) -> None:
    module = components.load(TINY, component, converted)
    parts = components.COMPONENTS[component]
    stored = public_download.tensors_of(parts.file_set)
    for key, tensor in checkpoint.public_state(module, parts.names(TINY)).items():
        assert torch.equal(tensor, stored[key].to(components.DTYPES[parts.dtype(TINY)]))
    assert not module.training and not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def test_the_caller_may_choose_the_type(converted: Path) -> None:
    module = components.load(TINY, "audio", converted, dtype=torch.float64)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}


def test_the_adapter_is_merged(converted: Path) -> None:
    model, twin = components.load(TINY, "dit", converted), components.load(TINY, "dit", converted)
    components.merge_adapter(TINY, model, converted)
    lora.merge(
        twin, components.COMPONENTS["dit"].names(TINY), public_download.tensors_of(components.ADAPTER), TINY.lora
    )
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())


def test_weights_of_another_preset_are_refused(converted: Path) -> None:
    components.open_converted(replace(TINY, name="OTHER", weights="TINY"), "vae", converted)
    with pytest.raises(WeightsError, match="holds vae of preset TINY, not vae of OTHER"):
        components.load(replace(TINY, name="OTHER"), "vae", converted)


def test_weights_of_another_size_are_refused(converted: Path) -> None:
    with pytest.raises(MisshapedTensorError, match=r"decoder\.conv1\.bias is \[64\]"):
        components.load(replace(TINY, vae=replace(TINY.vae, dim=12)), "vae", converted)


def test_a_folder_that_was_not_converted_is_refused(converted: Path, tmp_path: Path) -> None:
    shutil.copytree(converted / "vae", tmp_path / "vae")
    (tmp_path / "vae" / "manifest.json").unlink()
    with pytest.raises(WeightsError, match="not converted: run live-avatar weights convert"):
        components.load(TINY, "vae", tmp_path)


@pytest.mark.parametrize("ask", [components.build_on_meta, components.public_shapes])
def test_unknown_names_are_refused(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(ValueError, match=r"unknown .* 'face'; there are"):
        ask(TINY, "face")
