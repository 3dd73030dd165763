"""Weights on disk: safetensors headers, shards, and the manifest with digests beside them.

Knows files, keys and bytes.  Knows no torch and no network: whether the right tensors are there is asked with a
table of expected shapes, and what is wrong is said with the key and the file before anything is loaded.
"""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
INDEX_SUFFIX = ".safetensors.index.json"
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Element types a weight may be stored in, with their bytes."""

_OTHER_TYPES = {"F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_SIZES = FLOATS | _OTHER_TYPES
_LONGEST_HEADER = 100_000_000
_NAMED_KEYS = 5

Shape = tuple[int, ...]


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file, and the key where there is one."""


class MissingTensorError(WeightsError):
    """A tensor that the model needs is not there."""


class SurplusTensorError(WeightsError):
    """A tensor that the model has no place for is there."""


class MisshapedTensorError(WeightsError):
    """A tensor has another shape or element type than the model's."""


class DamagedFileError(WeightsError):
    """A file is absent, truncated, unreadable, or not the one its manifest describes."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: bytes ``start`` to ``end`` of ``file``."""

    file: Path
    shape: Shape
    dtype: str
    """Element type under its safetensors name, such as ``BF16``."""
    start: int
    end: int


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says about one file."""

    name: str
    bytes: int
    sha256: str
    tensors: dict[str, str]
    """SHA-256 of every tensor's bytes by key: names the damaged one."""


@dataclass(frozen=True)
class Manifest:
    """What a folder of weights is: of which preset and part, with which digests."""

    preset: str
    component: str
    config: dict[str, Any]
    """The public ``config.json`` as it came, or empty."""
    files: tuple[FileRecord, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the manifest: equal digests mean equal weights of equal meaning."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def _text(self) -> str:
        return json.dumps({"format": 1, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    def write(self, folder: Path) -> None:
        """Writes ``manifest.json``, all at once."""
        partial = folder / f".{MANIFEST}.partial"
        partial.write_text(self._text())
        os.replace(partial, folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of ``folder``.

        Raises:
            DamagedFileError: there is none, or it is not a manifest of this format.
        """
        path = folder / MANIFEST
        content = read_json(path)
        if content.pop("format", None) != 1:
            raise DamagedFileError(f"{path}: not a weights manifest of format 1")
        try:
            files = tuple(FileRecord(**record) for record in content.pop("files"))
            manifest = cls(files=files, **content)
        except (TypeError, KeyError) as error:
            raise DamagedFileError(f"{path}: not a weights manifest: {error}") from error
        for record in files:
            if Path(record.name).name != record.name or record.name in ("", ".", ".."):
                raise DamagedFileError(f"{path}: {record.name!r} is not the name of a file beside it")
        return manifest


@dataclass(frozen=True)
class WeightFiles:
    """One set of tensors, however many files hold it."""

    source: Path
    entries: dict[str, Entry]
    manifest: Manifest | None

    def verify(self) -> None:
        """Reads every byte and compares it with the manifest, several files at a time.

        Raises:
            DamagedFileError: no manifest, or a file differs from it; names the file and the damaged keys.
        """
        if self.manifest is None:
            raise DamagedFileError(f"{self.source}: no {MANIFEST} to verify against; convert the weights first")
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
            for _ in threads.map(self._verify_file, self.manifest.files):
                pass

    def _verify_file(self, record: FileRecord) -> None:
        path = self.source / record.name
        if file_digest(path) == record.sha256:
            return
        with path.open("rb") as file:
            damaged = [key for key, digest in record.tensors.items() if self._tensor_digest(key, file) != digest]
        where = f"tensor {_some(damaged)}" if damaged else "its header"
        raise DamagedFileError(f"{path}: damaged in {where}: the SHA-256 is not the one in {MANIFEST}")

    def _tensor_digest(self, key: str, file: Any) -> str:
        entry = self.entries.get(key)
        if entry is None:
            return ""
        file.seek(entry.start)
        return hashlib.sha256(file.read(entry.end - entry.start)).hexdigest()

    def difference(self, expected: Mapping[str, Shape]) -> "Difference":
        """How the tensors that are there differ from those ``expected`` by key and shape."""
        misshaped = {
            key: f"{key} is {list(entry.shape)} {entry.dtype} in {entry.file.name}, not {list(expected[key])} of floats"
            for key, entry in self.entries.items()
            if key in expected and (entry.shape != expected[key] or entry.dtype not in FLOATS)
        }
        surplus = {key: entry.file.name for key, entry in self.entries.items() if key not in expected}
        return Difference(str(self.source), tuple(sorted(expected.keys() - self.entries.keys())), surplus, misshaped)


@dataclass(frozen=True)
class Difference:
    """What keeps a set of tensors from being the expected one."""

    source: str
    missing: tuple[str, ...]
    surplus: dict[str, str]
    """Key to the file that holds it."""
    misshaped: dict[str, str]
    """Key to a sentence about it."""

    @property
    def empty(self) -> bool:
        """Whether the tensors are exactly the expected ones."""
        return not (self.missing or self.surplus or self.misshaped)

    def raise_if_any(self) -> None:
        """Raises the error that fits, if there is a difference.

        Raises:
            MissingTensorError, SurplusTensorError, MisshapedTensorError: with everything that is wrong in the message.
        """
        if self.empty:
            return
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing: {_some(self.missing)}")
        if self.surplus:
            files = sorted(set(self.surplus.values()))
            parts.append(f"{len(self.surplus)} surplus: {_some(self.surplus)} (in {_some(files)})")
        if self.misshaped:
            parts.append(f"{len(self.misshaped)} misshaped: {_some(self.misshaped.values())}")
        kinds: dict[type[WeightsError], object] = {
            MissingTensorError: self.missing,
            SurplusTensorError: self.surplus,
            MisshapedTensorError: self.misshaped,
        }
        kind = next(kind for kind, tensors in kinds.items() if tensors)
        raise kind(f"{self.source}: {'; '.join(parts)}")


def model_digest(manifests: Iterable[Manifest]) -> str:
    """One SHA-256 for a whole system, whatever order its ``manifests`` come in: neighbours compare it on meeting."""
    lines = sorted(f"{manifest.component} {manifest.digest}\n" for manifest in manifests)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_weights(path: Path) -> WeightFiles:
    """Reads the headers of a safetensors file, or of a folder with a manifest, an index, or one file.

    Raises:
        WeightsError: a file is absent, truncated or unreadable, or files and index disagree.
    """
    if path.is_dir() and (path / MANIFEST).exists():
        manifest = Manifest.read(path)
        for record in manifest.files:
            _check_size(path / record.name, record.bytes)
        files = [path / record.name for record in manifest.files]
        weights = WeightFiles(path, _merged_headers(files), manifest)
        _check_listing(weights, {key: record.name for record in manifest.files for key in record.tensors}, MANIFEST)
        return weights
    if not path.is_dir():
        return WeightFiles(path, read_header(path), None)
    return _open_plain_folder(path)


def _open_plain_folder(path: Path) -> WeightFiles:
    indices = sorted(path.glob(f"*{INDEX_SUFFIX}"))
    if len(indices) == 1:
        listing = read_json(indices[0]).get("weight_map")
        if not isinstance(listing, dict):
            raise DamagedFileError(f"{indices[0]}: no weight_map")
        files = [path / name for name in sorted(set(listing.values()))]
        weights = WeightFiles(path, _merged_headers(files), None)
        _check_listing(weights, listing, indices[0].name)
        return weights
    files = sorted(path.glob("*.safetensors"))
    if len(indices) > 1 or len(files) != 1:
        raise DamagedFileError(f"{path}: holds {len(indices)} indices and {len(files)} safetensors files, not one")
    return WeightFiles(path, read_header(files[0]), None)


def _check_listing(weights: WeightFiles, listing: Mapping[str, str], name: str) -> None:
    """Raises unless every key lies in the file that manifest or index ``name`` promises, and no other key does."""
    for key, file in listing.items():
        if key not in weights.entries or weights.entries[key].file.name != file:
            raise MissingTensorError(f"{weights.source / file}: tensor {key} is missing although {name} lists it")
    surplus = sorted(weights.entries.keys() - listing.keys())
    if surplus:
        file = weights.entries[surplus[0]].file.name
        raise SurplusTensorError(f"{weights.source / file}: tensor {_some(surplus)} is not listed in {name}")


def _merged_headers(files: Iterable[Path]) -> dict[str, Entry]:
    merged: dict[str, Entry] = {}
    for file in files:
        for key, entry in read_header(file).items():
            if key in merged:
                raise SurplusTensorError(f"{file}: tensor {key} is also in {merged[key].file.name}")
            merged[key] = entry
    return merged


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file, by key; reads no tensor data.

    Raises:
        DamagedFileError: absent, truncated (names the first tensor that is cut), or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= _LONGEST_HEADER else b""
    except OSError as error:
        raise DamagedFileError(f"{path}: cannot be read: {error.strerror}") from error
    if length > _LONGEST_HEADER:
        raise DamagedFileError(f"{path}: not a safetensors file: it claims a header of {length} bytes")
    if size < 8 or len(text) < length:
        raise DamagedFileError(f"{path}: truncated inside the header, after {size} bytes")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        entries = {key: _entry(path, 8 + length, value) for key, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFileError(f"{path}: unreadable header: {error}") from error
    _check_extent(path, entries, 8 + length, size)
    return entries


def _entry(path: Path, base: int, value: dict[str, Any]) -> Entry:
    start, end = (base + int(offset) for offset in value["data_offsets"])
    entry = Entry(path, tuple(int(side) for side in value["shape"]), str(value["dtype"]), start, end)
    if end - start != math.prod(entry.shape) * _SIZES[entry.dtype]:
        raise ValueError(f"{entry.dtype} of shape {list(entry.shape)} does not fill bytes {start} to {end}")
    return entry


def _check_extent(path: Path, entries: Mapping[str, Entry], base: int, size: int) -> None:
    """Raises unless the tensors lie end to end and fill the file."""
    position = base
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            raise DamagedFileError(f"{path}: unreadable header: tensor {key} begins at {entry.start}, not {position}")
        position = entry.end
        if position > size:
            raise DamagedFileError(f"{path}: truncated inside tensor {key}: {size} bytes")
    if position != size:
        raise DamagedFileError(f"{path}: {size - position} bytes follow the last tensor")


def _check_size(path: Path, expected: int) -> None:
    """Raises unless ``path`` holds ``expected`` bytes; for a truncated file the header gives the tensor that is cut."""
    if not path.is_file():
        raise DamagedFileError(f"{path}: is missing although {MANIFEST} lists it")
    size = path.stat().st_size
    if size != expected:
        read_header(path)
        raise DamagedFileError(f"{path}: holds {size} bytes, {MANIFEST} says {expected}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        DamagedFileError: absent, or no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path}: not a JSON object")
    return content


def _some(keys: Collection[str]) -> str:
    """The first few of ``keys``, and how many more there are."""
    shown = ", ".join(list(keys)[:_NAMED_KEYS])
    return shown if len(keys) <= _NAMED_KEYS else f"{shown} and {len(keys) - _NAMED_KEYS} more"
