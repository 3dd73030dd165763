"""Weights of a training run, as if they had been exported and converted."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from live_avatar.model.components import ADAPTER, FILE_SETS
from live_avatar.trainer.export import export
from live_avatar.trainer.presets import ExportConfig


@contextmanager
def exported(checkpoint: Path, weights: Path) -> Iterator[Path]:
    """A folder with the networks of ``weights``, in which those that the run trained are its newest.

    Raises:
        CheckpointError: no such run, or a damaged checkpoint.
        WeightsError: an adapter that does not stand on ``weights``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file_set in FILE_SETS:
            if file_set != "dit":
                (folder / file_set).symlink_to((weights / file_set).resolve())
        made = export(ExportConfig(checkpoint=checkpoint, output=folder))
        if made.component == ADAPTER:
            (folder / "dit").symlink_to((weights / "dit").resolve())
        yield folder
