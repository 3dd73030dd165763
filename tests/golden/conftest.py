"""Finds the goldens of a folder and hands each to the tests of its kind.

A golden is a pair NAME.safetensors and NAME.json; its kind is NAME up to a suffix.  Names, dimensions and
tolerances come from the JSON, so that any folder of goldens made by the same recipe can be checked.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

KINDS = (
    "dit_bidirectional",
    "dit_causal",
    "scheduler",
    "rollout",
    "audio",
    "image",
    "lora",
    "e2e",
    "vae",
    "t5",
)


@dataclass(frozen=True)
class Golden:
    """One set of reference inputs and outputs."""

    name: str
    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The golden's configuration, tolerance and notes."""
        meta: dict[str, Any] = json.loads((self.folder / f"{self.name}.json").read_text())
        return meta

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Inputs, intermediate values and outputs by name."""
        return load_file(self.folder / f"{self.name}.safetensors")

    def weights(self, filename: str) -> dict[str, torch.Tensor]:
        """A state dict under the reference's key names."""
        return load_file(self.folder / filename)

    def media(self, filename: str) -> Path | None:
        """The picture or sound ``filename``, or None where no media folder is at hand."""
        candidates = (self.folder / "media" / filename, self.folder.parent / "media" / filename)
        return next((path for path in candidates if path.exists()), None)

    def close(self, actual: torch.Tensor, tensor_name: str) -> None:
        """Asserts that ``actual`` equals the golden tensor within the golden's own tolerance."""
        tolerance = self.meta["tolerance"]
        torch.testing.assert_close(
            actual,
            self.tensors[tensor_name],
            rtol=tolerance["rtol"],
            atol=tolerance["atol"],
            msg=lambda text: f"{self.name}: {tensor_name}: {text}",
        )


def kind_of(name: str) -> str | None:
    """The kind of golden NAME, or None for weight files and unknown names."""
    if name.endswith("_weights"):
        return None
    return next((kind for kind in KINDS if name == kind or name.startswith(f"{kind}_")), None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that asks for ``golden`` once for every golden of its kind."""
    if "golden" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("golden_kind")
    assert marker is not None, f"{metafunc.definition.nodeid} asks for a golden but names no golden_kind"
    folder: Path = metafunc.config.getoption("--goldens").resolve()
    names = sorted(path.stem for path in folder.glob("*.json") if kind_of(path.stem) == marker.args[0])
    metafunc.parametrize("golden", [pytest.param(Golden(name, folder), id=name) for name in names], scope="session")
