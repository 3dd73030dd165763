"""Where the portrait, the speech and the pipeline of a command come from.

Knows the samples that come with the package and how a local pipeline is started; nothing of what is made of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from live_avatar.config import PRESETS, TINY
from live_avatar.config import preset as preset_named

if TYPE_CHECKING:
    from live_avatar.launcher.pipeline import Plan

SAMPLES = Path(__file__).parent.parent / "samples"
PORTRAIT = SAMPLES / "portrait.png"
SPEECH = SAMPLES / "speech.wav"
TRAINED = SAMPLES / "tiny"
"""Weights of the presets TINY and TINY_128 that come with the package."""
DEFAULT_PRESET = TINY.name
"""Live on two cores of any machine, and its mouths are whole; TINY_128 needs good cores and tears some."""
RANDOM = Path("random")
"""Said instead of a folder of weights."""
RANDOM_WEIGHTS = "random weights: the picture is noise, the timing is real"


def weights_of(preset: str, given: Path | None) -> Path | None:
    """The folder of weights to load: the one given, else the package's own for its small presets; None: random ones.

    Raises:
        ValueError: no such preset; said here, before a process is started that would say it.
    """
    system = preset_named(preset)
    if given == RANDOM:
        return None
    is_small = preset in PRESETS and system.weights_name == TINY.name
    if given is None and is_small and TRAINED.is_dir():
        return TRAINED
    return given


def report(line: str) -> None:
    """Says something about the way, apart from results."""
    typer.echo(line, err=True)


@contextmanager
def gateway_of(plan: "Plan") -> Iterator[str]:
    """Address of the gateway of a local pipeline that lives as long as the context."""
    from live_avatar.launcher.pipeline import LocalPipeline

    report(f"starting {plan.preset} on this machine, services: {len(plan.layout.stages) + 3}")
    with LocalPipeline(plan, report) as pipeline:
        yield pipeline.gateway
