"""Weights into modules and back: public key names in the files, our names in memory.

``names`` is always a map from public key to our key; each network's file offers its own.  A module built on the
meta device gets its tensors only when every key, shape and digest has been checked and every tensor has been read,
so that it is either complete or untouched.  Knows no network by name, and no command line.
"""

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from live_avatar.model.weight_files import (
    MANIFEST,
    DamagedFileError,
    Difference,
    Entry,
    FileRecord,
    Manifest,
    Shape,
    WeightFiles,
    file_digest,
)

SHARD_BYTES = 2 << 30
"""Largest shard that is written, one larger tensor apart: also the memory that writing takes."""

Names = Mapping[str, str]
"""Public key to our key."""

_TORCH_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def public_shapes(module: nn.Module, names: Names) -> dict[str, Shape]:
    """Shape of every tensor of ``module`` by public key; works on the meta device."""
    state = module.state_dict()
    return {public: tuple(state[ours].shape) for public, ours in names.items()}


def public_state(module: nn.Module, names: Names) -> dict[str, Tensor]:
    """The tensors of ``module`` by public key, not copied."""
    state = module.state_dict()
    return {public: state[ours] for public, ours in names.items()}


def load_module(
    module: nn.Module,
    names: Names,
    weights: WeightFiles,
    *,
    expected: Mapping[str, Shape] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Fills ``module``, best built on the meta device, from ``weights``.

    Files with a manifest are verified byte for byte first.  Peak host memory is the weights that are kept plus one
    tensor as stored.

    Args:
        expected: every key of the files with its shape, where they hold more than this module; else the module's.
        dtype: what to convert to; as stored if None.

    Raises:
        WeightsError: anything missing, surplus, misshaped or damaged; the module is then as it was.
    """
    weights.difference(expected or public_shapes(module, names)).raise_if_any()
    if weights.manifest is not None:
        weights.verify()
    tensors = {key: _convert(tensor, dtype, device) for key, tensor in map_tensors(weights, names)}
    assign(module, names, tensors, source=str(weights.source))


def assign(module: nn.Module, names: Names, tensors: Mapping[str, Tensor], *, source: str = "tensors") -> None:
    """Makes ``tensors`` (by public key) the parameters and buffers of ``module``, without a copy.

    Raises:
        WeightsError: ``tensors`` are not exactly the module's; the module is then as it was.
    """
    tensor_difference(tensors, public_shapes(module, names), source).raise_if_any()
    present = module.state_dict(keep_vars=True)
    ours = {id(present[ours]): (public, present[ours]) for public, ours in names.items()}
    state: dict[str, Tensor] = {}
    filled: dict[int, Tensor] = {}
    for key, slot in present.items():
        assert id(slot) in ours, f"{key} has no public name and shares no tensor with one that has"
        if id(slot) not in filled:
            tensor = tensors[ours[id(slot)][0]]
            is_parameter = isinstance(slot, nn.Parameter)
            filled[id(slot)] = nn.Parameter(tensor, requires_grad=slot.requires_grad) if is_parameter else tensor
        state[key] = filled[id(slot)]
    module.load_state_dict(state, strict=True, assign=True)
    unfilled = [key for key, buffer in module.named_buffers() if buffer.is_meta]
    assert not unfilled, f"buffers {unfilled} are in no checkpoint: the module must build them outside the meta device"


def tensor_difference(tensors: Mapping[str, Tensor], expected: Mapping[str, Shape], source: str) -> Difference:
    """How ``tensors`` differ from those ``expected`` by key and shape."""
    misshaped = {
        key: f"{key} is {list(tensor.shape)} {tensor.dtype}, not {list(expected[key])} of floats"
        for key, tensor in tensors.items()
        if key in expected and (tuple(tensor.shape) != expected[key] or not tensor.is_floating_point())
    }
    surplus = {key: source for key in tensors if key not in expected}
    return Difference(source, tuple(sorted(expected.keys() - tensors.keys())), surplus, misshaped)


def map_tensors(weights: WeightFiles, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors ``keys``, file by file through a memory map, each valid until the next is asked for."""
    by_file: dict[Path, list[str]] = {}
    for key in keys:
        by_file.setdefault(weights.entries[key].file, []).append(key)
    for path, wanted in by_file.items():
        with path.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)) as mapped:
            for key in sorted(wanted, key=lambda key: weights.entries[key].start):
                yield key, _view(mapped, weights.entries[key])
                _release(mapped, weights.entries[key])


def _view(mapped: mmap.mmap, entry: Entry) -> Tensor:
    dtype = _TORCH_TYPES[entry.dtype]
    count = (entry.end - entry.start) // dtype.itemsize
    if count == 0:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=entry.start).reshape(entry.shape)


def _release(mapped: mmap.mmap, entry: Entry) -> None:
    """Gives the pages that lie wholly before the end of ``entry`` back, so that a large shard never adds up."""
    start = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
    length = entry.end // mmap.PAGESIZE * mmap.PAGESIZE - start
    if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED, start, length)


def _convert(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str) -> Tensor:
    """A copy of its own, of the wanted type, where it is wanted."""
    return tensor.to(device=device, dtype=dtype or tensor.dtype, copy=True)


def save_component(
    module: nn.Module,
    names: Names,
    folder: Path,
    *,
    preset: str,
    component: str,
    config: Mapping[str, Any] | None = None,
) -> Manifest:
    """Writes ``module`` into ``folder`` under public names, with a manifest."""
    tensors = public_state(module, names).items()
    return write_weights(folder, tensors, preset=preset, component=component, config=config)


def write_weights(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    preset: str,
    component: str,
    config: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Writes ``tensors`` as shards, and last the manifest: a folder is complete or has none.

    Tensors are taken one at a time and copied, so that a lazy iterable needs the memory of one shard.

    Raises:
        DamagedFileError: ``folder`` already holds weights, which are never overwritten.
    """
    if (folder / MANIFEST).exists():
        raise DamagedFileError(f"{folder}: already holds weights; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    records: list[FileRecord] = []
    for shard in _shards(tensors, shard_bytes):
        records.append(_write_shard(folder, f"weights-{len(records) + 1:05}.safetensors", shard))
    manifest = Manifest(preset=preset, component=component, config=dict(config or {}), files=tuple(records))
    manifest.write(folder)
    return manifest


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for key, tensor in tensors:
        if shard and held + tensor.nbytes > shard_bytes:
            yield shard
            shard, held = {}, 0
        shard[key] = tensor.detach().to("cpu", copy=True).contiguous()
        held += tensor.nbytes
    if shard:
        yield shard


def _write_shard(folder: Path, name: str, shard: dict[str, Tensor]) -> FileRecord:
    partial, path = folder / f".{name}.partial", folder / name
    save_shared(shard, partial, {"format": "pt"})
    digests = {key: _digest(tensor) for key, tensor in shard.items()}
    record = FileRecord(name, partial.stat().st_size, file_digest(partial), digests)
    os.replace(partial, path)
    return record


def save_shared(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    """Writes a safetensors file with the permissions of any other new file.

    The library's own leave it to its owner alone, and services run as another user than whoever converts weights.
    """
    path.touch()
    permissions = path.stat().st_mode
    save_file(tensors, path, metadata=metadata)
    path.chmod(permissions)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
