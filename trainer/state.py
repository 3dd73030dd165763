"""Checkpoints of a run: written whole or not at all, read back on any number of processes.

``torch.distributed.checkpoint`` stores every tensor once, however it is sharded.  A checkpoint is a folder
``step-N``; it is written under another name and renamed when complete, so that a run killed at any time finds the
last good one.  Random numbers and the order of the data follow from the step and need no state (``rng``, ``data``).
"""

import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader as loading
from torch.distributed.checkpoint import state_dict_saver as saving
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from live_avatar.trainer.distributed import Processes

_NAME = re.compile(r"^step-(\d{8})$")
_PARTIAL = ".partial"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it."""


class Checkpoints:
    """The checkpoints of one run in ``folder``."""

    def __init__(self, folder: Path, group: Processes, keep: int) -> None:
        self.folder = folder
        self.group = group
        self.keep = keep

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        found = self._complete()
        return found[-1] if found else None

    def save(self, step: int, state: dict[str, Tensor]) -> Path:
        """Writes ``state`` after ``step`` steps, then removes what is older than the newest ``keep``."""
        path = self.folder / f"step-{step:08}"
        partial = path.with_name(path.name + _PARTIAL)
        if self.group.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.group.wait()
        with _quiet():
            saving.save(dict(state), checkpoint_id=partial, no_dist=self.group.count == 1)
        self.group.wait()
        if self.group.is_first:
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
            for old in self._complete()[: -self.keep]:
                shutil.rmtree(old)
        self.group.wait()
        return path

    def load(self, path: Path, state: dict[str, Tensor]) -> int:
        """Fills the tensors of ``state`` from ``path``; returns the steps done by then.

        Raises:
            CheckpointError: the checkpoint is damaged, or of another run.
        """
        load(path, state, alone=self.group.count == 1)
        return steps_of(path)

    def _complete(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.match(path.name))


def load(path: Path, state: dict[str, Tensor], *, alone: bool = True) -> None:
    """Fills the tensors of ``state`` from the checkpoint ``path``.

    Raises:
        CheckpointError: the checkpoint is damaged, or lacks one of them.
    """
    holder = dict(state)
    try:
        with _quiet():
            loading.load(holder, checkpoint_id=path, no_dist=alone)
    except (CheckpointException, OSError, ValueError, RuntimeError, KeyError, EOFError) as error:
        raise CheckpointError(f"{path}: cannot be loaded: {str(error).strip().splitlines()[-1]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """A process alone means to be alone: no warning about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def read_all(path: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint ``path``, whole, on the CPU.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    try:
        metadata = FileSystemReader(path).read_metadata()
    except (CheckpointException, OSError, ValueError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: not a checkpoint: {error}") from error
    state = {key: torch.empty(entry.size, dtype=entry.properties.dtype) for key, entry in
             metadata.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)}  # fmt: skip
    load(path, state)
    return state


def steps_of(path: Path) -> int:
    """Steps done when the checkpoint ``path`` was written.

    Raises:
        CheckpointError: not the name of a checkpoint.
    """
    match = _NAME.match(path.name)
    if match is None:
        raise CheckpointError(f"{path}: not a checkpoint folder, step-N")
    return int(match[1])


def newest(folder: Path) -> Path:
    """``folder`` itself if it is a checkpoint, or the newest checkpoint in it.

    Raises:
        CheckpointError: there is none.
    """
    if _NAME.match(folder.name):
        return folder
    found = sorted(path for path in folder.glob("step-*") if _NAME.match(path.name))
    if not found:
        raise CheckpointError(f"{folder}: no checkpoint")
    return found[-1]
