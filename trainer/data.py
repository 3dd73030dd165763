"""A data set of prepared samples: shards on disk, read in a shuffled order that needs no memory of the past.

Which sample comes at place n of the stream is a function of the seed and n alone: shards are shuffled in every
epoch, and samples within groups of neighbouring shards, so that reading stays local.  A run that goes on begins at
the place where it stopped, with any number of processes.  Knows nothing of how samples are made (``prepare``).

Pictures of several sizes lie in a folder each (``Datasets``); the clips of one step are of one size.
"""

from collections import OrderedDict
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from live_avatar.model.weight_files import DamagedFileError, read_header
from live_avatar.trainer.random_streams import generator

SHARD_SUFFIX = ".safetensors"
SHARD_PATTERN = f"clips-*{SHARD_SUFFIX}"
NEGATIVE_TEXT = f"negative-text{SHARD_SUFFIX}"
SHUFFLED_SHARDS = 8
"""Shards whose samples are mixed."""
_OPEN_SHARDS = 2 * SHUFFLED_SHARDS


class DataError(ValueError):
    """Data that cannot be trained on; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prepared clip."""

    latents: Tensor
    """[16, F, h, w]; latent f holds frames 4f to 4f + 3"""
    speech: Tensor
    """[S, D, 4F] speech hidden states"""
    text: Tensor
    """[L, text_dim] states of the prompt"""
    reference: Tensor
    """[16, 1, h, w] as a portrait yields it"""
    motion: Tensor
    """[16, n, h, w] of a still clip of the reference"""
    important: Tensor
    """[h, w] in 0..1: how far each latent pixel is what the clip is about, such as a mouth"""


SAMPLE_FIELDS = tuple(field.name for field in fields(Sample))


@dataclass(frozen=True)
class Shard:
    """One file of samples."""

    path: Path
    samples: int

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Reads the header.

        Raises:
            DataError: cut short, unreadable, or without a part that a sample needs; names the file.
        """
        try:
            keys = read_header(path).keys()
        except DamagedFileError as error:
            raise DataError(f"shard {error}; prepare it again") from error
        samples = len({key.partition(".")[0] for key in keys})
        wanted = {f"{position:04}.{field}" for position in range(samples) for field in SAMPLE_FIELDS}
        if keys != wanted:
            differing = sorted(keys ^ wanted)
            raise DataError(f"shard {path}: {differing[0]} is {'missing' if differing[0] in wanted else 'unknown'}")
        return cls(path, samples)


class Dataset:
    """The samples of a folder as an endless shuffled stream."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Reads the headers of all shards.

        Raises:
            DataError: no shards, a damaged one, or shards of different networks.
        """
        paths = sorted(folder.glob(SHARD_PATTERN))
        self.shards = [shard for shard in map(Shard.open, paths) if shard.samples]
        if not self.shards:
            raise DataError(f"{folder}: no samples ({SHARD_PATTERN}); run prepare first")
        self.folder = folder
        self.seed = seed
        self._orders: dict[int, list[tuple[int, int]]] = {}
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._check_same_source()

    def __len__(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def source(self) -> str:
        """Which networks made the samples (``prepare``)."""
        return _source(self.shards[0].path)

    @cached_property
    def negative_text(self) -> Tensor:
        """[L, text_dim] states of the prompt that stands for none."""
        with safe_open(self.folder / NEGATIVE_TEXT, "pt") as file:
            text: Tensor = file.get_tensor("text")
        return text

    def sample(self, place: int) -> Sample:
        """The sample at ``place`` of the stream, from 0."""
        epoch, position = divmod(place, len(self))
        shard, index = self._order(epoch)[position]
        file = self._file(self.shards[shard].path)
        return Sample(**{field: file.get_tensor(f"{index:04}.{field}") for field in SAMPLE_FIELDS})

    def _order(self, epoch: int) -> list[tuple[int, int]]:
        """(shard, position in it) of every sample, in the order of ``epoch``."""
        if epoch not in self._orders:
            self._orders = {epoch: shuffled([shard.samples for shard in self.shards], self.seed, epoch)}
        return self._orders[epoch]

    def _file(self, path: Path) -> Any:
        """A shard, mapped into memory; a few stay open."""
        if path not in self._open:
            if len(self._open) >= _OPEN_SHARDS:
                self._open.popitem(last=False)
            self._open[path] = safe_open(path, "pt")
        self._open.move_to_end(path)
        return self._open[path]

    def _check_same_source(self) -> None:
        for shard in self.shards:
            if _source(shard.path) != self.source:
                raise DataError(f"shard {shard.path}: made by other networks than {self.shards[0].path}")


class Datasets:
    """One folder of samples, or a folder of such folders, whose pictures may be of different sizes."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Reads the headers of all shards.

        Raises:
            DataError: no shards, a damaged one, or shards of different networks.
        """
        inner = sorted({path.parent for path in folder.glob(f"*/{SHARD_PATTERN}")})
        is_one = not inner or any(folder.glob(SHARD_PATTERN))
        self.sets = [Dataset(each, seed) for each in ([folder] if is_one else inner)]
        self.folder = folder
        self.seed = seed
        for each in self.sets:
            if each.source != self.sets[0].source:
                raise DataError(f"{each.folder}: made by other networks than {self.sets[0].folder}")

    @property
    def negative_text(self) -> Tensor:
        """See ``Dataset``; the same in all, for one network wrote it."""
        return self.sets[0].negative_text

    def of(self, step: int) -> Dataset:
        """The set that ``step`` takes its clips from: a random one, the same however often it is asked."""
        return self.sets[int(generator(self.seed, "set", step).integers(len(self.sets)))]


def shuffled(sizes: list[int], seed: int, epoch: int, group: int = SHUFFLED_SHARDS) -> list[tuple[int, int]]:
    """A shuffled order of the samples of shards with ``sizes``: groups of shards at random, samples within a group."""
    random = generator(seed, "order", epoch)
    shards = random.permutation(len(sizes))
    order: list[tuple[int, int]] = []
    for first in range(0, len(shards), group):
        members = [(int(s), position) for s in shards[first : first + group] for position in range(sizes[s])]
        order += [members[index] for index in random.permutation(len(members))]
    return order


def crop(sample: Sample, blocks: int, latents_per_block: int, random: np.random.Generator) -> Sample:
    """``blocks`` consecutive blocks of ``sample`` that begin at a random one.

    Raises:
        DataError: the sample is shorter.
    """
    have = sample.latents.shape[1] // latents_per_block
    if have < blocks:
        raise DataError(f"a sample of {have} blocks is too short for {blocks}: prepare longer ones or train on fewer")
    first = int(random.integers(0, have - blocks, endpoint=True)) * latents_per_block
    last = first + blocks * latents_per_block
    frames = sample.speech.shape[2] // sample.latents.shape[1]
    parts = dict(vars(sample), latents=sample.latents[:, first:last],
                 speech=sample.speech[:, :, first * frames : last * frames])  # fmt: skip
    return Sample(**parts)


def padded(text: Tensor, rows: int) -> Tensor:
    """``text`` [L, C] with zeros below, [rows, C]: the denoiser does the same."""
    return torch.nn.functional.pad(text, (0, 0, 0, rows - text.shape[0]))


def _source(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return str((file.metadata() or {}).get("source", "unknown"))
