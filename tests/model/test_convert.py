"""The offline converter: nothing executed, nothing guessed, nothing written before all is checked."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from live_avatar.config import TINY
from live_avatar.model import components, convert
from live_avatar.model.weight_files import (
    MANIFEST,
    DamagedFileError,
    MissingTensorError,
    SurplusTensorError,
    WeightsError,
    open_weights,
)

from .. import public_download

FILE_SETS = (*components.FILE_SETS, components.ADAPTER)


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """A fresh public download of TINY."""
    public_download.write(tmp_path / "public")
    return tmp_path / "public"


@pytest.mark.parametrize("file_set", FILE_SETS)
def test_public_keys_and_bits_are_kept(download: Path, tmp_path: Path, file_set: str) -> None:
    manifest = convert.convert(TINY, file_set, convert.source(download, file_set), tmp_path / "out")
    weights = open_weights(tmp_path / "out" / file_set)
    stored = public_download.tensors_of(file_set)
    assert weights.manifest == manifest and weights.entries.keys() == stored.keys()
    assert {entry.dtype for entry in weights.entries.values()} == {"BF16"}
    weights.verify()


def test_a_second_run_keeps_what_is_there(download: Path, tmp_path: Path) -> None:
    source = convert.source(download, "vae")
    first = convert.convert(TINY, "vae", source, tmp_path / "out")
    os.unlink(source)
    assert convert.convert(TINY, "vae", source, tmp_path / "out") == first


def test_a_second_run_finds_damage(download: Path, tmp_path: Path) -> None:
    source = convert.source(download, "vae")
    convert.convert(TINY, "vae", source, tmp_path / "out")
    shard = next((tmp_path / "out" / "vae").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedFileError, match=shard.name):
        convert.convert(TINY, "vae", source, tmp_path / "out")


def test_a_pickle_with_code_is_never_run(download: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"conv1.bias": Trap()}, download / "Wan2.1_VAE.pth")
    with pytest.raises(DamagedFileError, match=r"Wan2\.1_VAE\.pth: cannot be read"):
        convert.convert(TINY, "vae", download / "Wan2.1_VAE.pth", tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("position", [0.2, 0.5, 0.9])
def test_a_flipped_bit_in_a_pickle_is_found(download: Path, tmp_path: Path, position: float) -> None:
    path = download / "Wan2.1_VAE.pth"
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 16
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=path.name):
        convert.convert(TINY, "vae", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [0, 10, 100_000])
def test_a_truncated_pickle_is_refused(download: Path, tmp_path: Path, length: int) -> None:
    path = download / "Wan2.1_VAE.pth"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedFileError, match=path.name):
        convert.convert(TINY, "vae", path, tmp_path / "out")


@pytest.mark.parametrize("content", [[torch.ones(1)], {"conv1.bias": "text"}], ids=["list", "text"])
def test_a_pickle_that_is_no_state_dict_is_refused(download: Path, tmp_path: Path, content: object) -> None:
    torch.save(content, download / "Wan2.1_VAE.pth")
    with pytest.raises(DamagedFileError, match="not a state dict"):
        convert.convert(TINY, "vae", download / "Wan2.1_VAE.pth", tmp_path / "out")


def test_old_pickles_are_read(download: Path, tmp_path: Path) -> None:
    path = download / "Wan2.1_VAE.pth"
    torch.save(public_download.tensors_of("vae"), path, _use_new_zipfile_serialization=False)
    convert.convert(TINY, "vae", path, tmp_path / "out")
    open_weights(tmp_path / "out" / "vae").verify()


def test_missing_and_surplus_tensors_stop_before_writing(download: Path, tmp_path: Path) -> None:
    tensors = public_download.tensors_of("vae")
    bias = tensors.pop("conv1.bias")
    torch.save(tensors, download / "Wan2.1_VAE.pth")
    with pytest.raises(MissingTensorError, match=r"conv1\.bias"):
        convert.convert(TINY, "vae", download / "Wan2.1_VAE.pth", tmp_path / "out")
    torch.save(tensors | {"conv1.bias": bias, "ema": bias}, download / "Wan2.1_VAE.pth")
    with pytest.raises(SurplusTensorError, match="ema"):
        convert.convert(TINY, "vae", download / "Wan2.1_VAE.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_tensor_in_two_spellings_is_refused(download: Path, tmp_path: Path) -> None:
    adapter = public_download.tensors_of(components.ADAPTER)
    key = next(iter(adapter))
    save_file(adapter | {f"base_model.model.{key}": adapter[key].clone()}, download / "liveavatar.safetensors")
    with pytest.raises(SurplusTensorError, match="twice"):
        convert.convert(TINY, components.ADAPTER, download / "liveavatar.safetensors", tmp_path / "out")


def test_the_config_of_another_network_is_refused(download: Path, tmp_path: Path) -> None:
    (download / "config.json").write_text(json.dumps(public_download.public_config() | {"num_heads": 8}))
    with pytest.raises(WeightsError, match=r"config\.json: .*num_heads=8, not 6"):
        convert.convert(TINY, "dit", convert.source(download, "dit"), tmp_path / "out")
    (download / "config.json").write_text(json.dumps(public_download.public_config() | {"adain_mode": "other"}))
    with pytest.raises(WeightsError, match=r"config\.json: .*adain_mode='other'"):
        convert.convert(TINY, "dit", convert.source(download, "dit"), tmp_path / "out")


def test_the_config_is_kept_in_the_manifest(download: Path, tmp_path: Path) -> None:
    manifest = convert.convert(TINY, "dit", convert.source(download, "dit"), tmp_path / "out")
    assert manifest.config == public_download.public_config()


def test_the_vocabulary_travels_with_the_text_encoder(download: Path, tmp_path: Path) -> None:
    preset = replace(TINY, text=replace(TINY.text, tokenizer="umt5"))
    source = convert.source(download, "text")
    with pytest.raises(WeightsError, match="tokenizer's folder is missing"):
        convert.convert(preset, "text", source, tmp_path / "out")
    assert not (tmp_path / "out" / "text" / MANIFEST).exists()
    (download / "google" / "umt5-xxl").mkdir(parents=True)
    (download / "google" / "umt5-xxl" / "spiece.model").write_bytes(b"words")
    convert.convert(preset, "text", source, tmp_path / "out")
    assert (tmp_path / "out" / "text" / convert.TOKENIZER / "spiece.model").read_bytes() == b"words"


def test_a_download_without_the_file_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth"):
        convert.source(tmp_path, "vae")
    with pytest.raises(ValueError, match="unknown file set 'face'"):
        convert.source(tmp_path, "face")
