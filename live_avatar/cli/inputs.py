"""Where the portrait, the speech and the pipeline of a command come from.

Checks what it is given before anything starts.  Knows the samples that come with the package and how a local pipeline
is started; nothing of what is made of them.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from live_avatar import limits
from live_avatar.cli.access import Access
from live_avatar.config import PRESETS, TINY, Preset
from live_avatar.config import preset as preset_named
from live_avatar.launcher.layout import parse_layout
from live_avatar.portrait.header import read_header
from live_avatar.portrait.limits import PortraitError

if TYPE_CHECKING:
    from live_avatar.cli.gateway import Gateway
    from live_avatar.client.movie import Movie
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
FILE_SETS = ("dit", "vae", "text", "speech")
"""Parts of a folder of weights without which a pipeline cannot start."""
_TRIED_SIDE = 256
"""Pixels at which a portrait is decoded to see whether it can be."""
_SERVICE_PACKAGES = (
    "torch", "transformers", "safetensors", "sentencepiece", "einops", "ftfy", "soxr", "PIL", "pi_heif",
    "pydantic_settings", "structlog", "grpc_health", "opentelemetry", "prometheus_client", "redis", "fakeredis",
)  # fmt: skip
"""What services import that the client does not."""


def plan_of(layout: str, preset: str, weights: Path | None, otherwise: str = "") -> "Plan":
    """The pipeline that a command's options describe; everything is checked that can be without starting it.

    Args:
        layout: stages and steps.
        preset: name, or .json file.
        weights: folder, the word random, or None for what the preset has by itself.
        otherwise: what else can be done where the services are not installed.

    Raises:
        ValueError: the layout, the preset or the weights are none, or the services are not installed.
    """
    stages = parse_layout(layout)
    folder = weights_of(preset, weights)
    if folder is not None:
        check_weights(preset_named(preset), folder)
    check_installed(otherwise)
    from live_avatar.launcher.pipeline import Plan

    return Plan(layout=stages, preset=preset, weights=folder)


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


def check_weights(system: Preset, folder: Path) -> None:
    """Looks whether ``folder`` holds every part of the weights of ``system``; reads headers alone.

    Raises:
        ValueError: a part is missing, incomplete, or of another preset.
    """
    from live_avatar.model.weight_files import open_weights

    if not folder.is_dir():
        raise ValueError(f"--weights {folder} is no folder; live-avatar weights convert writes one")
    for file_set in FILE_SETS:
        if not (folder / file_set).is_dir():
            raise ValueError(f"--weights {folder}: {file_set} is missing; live-avatar weights convert writes it")
        manifest = open_weights(folder / file_set).manifest
        if manifest is None:
            raise ValueError(f"--weights {folder / file_set}: not converted; run live-avatar weights convert")
        if manifest.preset != system.weights_name:
            raise ValueError(f"--weights {folder / file_set} is of preset {manifest.preset}, not {system.weights_name}")


def check_installed(otherwise: str) -> None:
    """Raises ValueError with the remedy where this installation has the client alone; ``otherwise`` is another one."""
    for package in _SERVICE_PACKAGES:
        if not _is_installed(package):
            remedy = ", or ".join(filter(None, ("pip install 'live-avatar[serve]'", otherwise)))
            raise ValueError(f"no pipeline can be started here, {package} is not installed: {remedy}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def read_portrait(path: Path, *, decode: bool) -> bytes:
    """The bytes of a portrait's file.

    Args:
        path: the file.
        decode: also try whether all of it can be decoded, which needs the libraries of the services.

    Raises:
        ValueError: it is no picture that a gateway takes.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(limits.MAX_IMAGE_BYTES + 1)
    if len(data) > limits.MAX_IMAGE_BYTES:
        raise ValueError(f"--image {path} is larger than {limits.MAX_IMAGE_BYTES} bytes, the most a gateway takes")
    try:
        read_header(data)
        if decode:
            from live_avatar.portrait import reading

            reading.read_portrait(data, needed=_TRIED_SIDE)
    except PortraitError as error:
        raise ValueError(f"--image {path}: {error}") from error
    return data


def check_prompt(prompt: str) -> None:
    """Raises ValueError where a prompt is longer than a gateway takes."""
    if len(prompt) > limits.MAX_PROMPT_CHARACTERS:
        raise ValueError(f"--prompt has {len(prompt)} characters, at most {limits.MAX_PROMPT_CHARACTERS} are taken")


def report(line: str) -> None:
    """Says something about the way, apart from results."""
    typer.echo(line, err=True)


def conclude(movie: "Movie | None", *lines: str) -> None:
    """Says what a command has made: on stdout, unless the video goes there."""
    for line in lines:
        typer.echo(line, err=movie is not None and movie.output.is_stdout)


def gateway_or_pipeline(
    gateway: str, access: Access, layout: str, preset: str, weights: Path | None
) -> AbstractContextManager["Gateway"]:
    """The gateway that is there, or of a local pipeline that lives as long as the context.

    Raises:
        ValueError: at once: the address, the access or what describes the pipeline is wrong.
        OSError: at once: the authority's file cannot be read.
    """
    parse_layout(layout)
    if gateway:
        from live_avatar.cli.gateway import gateway_at

        return nullcontext(gateway_at(gateway, access))
    if access.ca is not None:
        raise ValueError("--ca needs --gateway: a pipeline that is started here is reached in plain text")
    return gateway_of(plan_of(layout, preset, weights, "give --gateway HOST:PORT of one that runs"))


@contextmanager
def gateway_of(plan: "Plan") -> Iterator["Gateway"]:
    """The gateway of a local pipeline that lives as long as the context.

    Its logs are removed at the end, unless it failed.
    """
    from live_avatar.cli.gateway import Gateway
    from live_avatar.launcher.pipeline import LocalPipeline

    report(f"starting {plan.preset} on this machine, services: {len(plan.layout.stages) + 3}")
    if plan.weights is None:
        report(RANDOM_WEIGHTS)
    with _logs() as logs, LocalPipeline(replace(plan, logs=logs), report) as pipeline:
        yield Gateway(pipeline.gateway)


@contextmanager
def _logs() -> Iterator[Path]:
    """A fresh folder, which stays where something outside the command failed and is removed otherwise."""
    folder = Path(tempfile.mkdtemp(prefix="live-avatar-logs-"))
    keep = False
    try:
        yield folder
    except OSError:
        keep = True
        report(f"the services' logs are kept in {folder}")
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
