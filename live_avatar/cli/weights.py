"""``live-avatar weights``: convert the public checkpoints, check a converted folder, list what belongs in one."""

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from live_avatar import memory
from live_avatar.config import PRESETS, Preset
from live_avatar.config import preset as preset_named
from live_avatar.files import check_output_folder

if TYPE_CHECKING:
    from live_avatar.model.weight_files import Manifest

NOT_LOADABLE = 1
_PRESET = typer.Option(help=f"{', '.join(PRESETS)}, or a .json file that describes one.")
_ONLY = typer.Option(help="A file set: dit, vae, text, speech, adapter; may be given several times; default: all.")
_CHECK_ONLY = typer.Option(
    help="A file set: dit, vae, text, speech, adapter, portraits; may be given several times; default: all that are "
    "needed, and adapter and portraits where they are there."
)

app = typer.Typer(help="Prepare and inspect model weights.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the public download.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; one subfolder per file set.")],
    preset: Annotated[str, _PRESET] = "S2V_14B",
    only: Annotated[list[str] | None, _ONLY] = None,
) -> None:
    """Public checkpoints to verified safetensors with a manifest; finished parts are kept."""
    from live_avatar.model import components, convert

    system = preset_named(preset)
    wanted = _file_sets(only) or [*components.FILE_SETS, components.ADAPTER]
    _require_folder(source)
    check_output_folder(target)
    sources = {file_set: convert.source(source, file_set) for file_set in wanted}
    for file_set, path in sources.items():
        manifest = convert.convert(system, file_set, path, target)
        tensors = sum(len(record.tensors) for record in manifest.files)
        typer.echo(f"{file_set:8}{tensors:5} tensors in {len(manifest.files)} files, digest {manifest.digest[:16]}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A converted folder.")],
    preset: Annotated[str, _PRESET] = "S2V_14B",
    size: Annotated[
        str,
        typer.Option(
            help="Picture for the memory table, as WIDTHxHEIGHT in pixels; default: the preset's largest.",
            show_default=False,
        ),
    ] = "",
    digests: Annotated[bool, typer.Option(help="Read every byte and compare it with the manifest.")] = True,
    only: Annotated[list[str] | None, _CHECK_ONLY] = None,
) -> None:
    """Is a converted folder complete, and how much memory will it take? Exit code 1 if it cannot be loaded."""
    from live_avatar.model import components

    system = preset_named(preset)
    width, height = _parse_size(size) if size else reversed(memory.largest_size(system))
    table = _memory_table(system, height, width)
    wanted = _file_sets(only, optional=(components.PORTRAITS,))
    _require_folder(folder)
    sound, faulty = _check_file_sets(system, folder, digests, wanted)
    for line in ("", *table, "", *_verdict(system, folder, sound, faulty)):
        typer.echo(line)
    if faulty:
        raise typer.Exit(NOT_LOADABLE)


@app.command()
def manifest(preset: Annotated[str, _PRESET] = "S2V_14B") -> None:
    """Every tensor of the public checkpoints with its shape, as JSON."""
    from live_avatar.model import components

    system = preset_named(preset)
    typer.echo(json.dumps({file_set: components.public_shapes(system, file_set) for file_set in components.FILE_SETS}))


def _file_sets(only: list[str] | None, optional: tuple[str, ...] = ()) -> list[str]:
    """The file sets that were named, each once; none where none was.

    Raises:
        ValueError: there is no such file set.
    """
    from live_avatar.model import components

    known = (*components.FILE_SETS, components.ADAPTER, *optional)
    for file_set in only or ():
        if file_set not in known:
            raise ValueError(f"unknown file set {file_set!r}; there are {', '.join(known)}")
    return list(dict.fromkeys(only or ()))


def _require_folder(path: Path) -> None:
    """Raises ValueError where ``path`` is no folder."""
    if not path.exists():
        raise ValueError(f"{path}: no such folder")
    if not path.is_dir():
        raise ValueError(f"{path}: not a folder")


def _check_file_sets(
    system: Preset, folder: Path, digests: bool, wanted: list[str]
) -> tuple[dict[str, "Manifest"], list[str]]:
    """Prints what is wrong with each file set; returns the manifests of the sound ones and the names of the others."""
    from live_avatar.model import components

    file_sets = wanted or list(components.FILE_SETS)
    if not wanted and (folder / components.ADAPTER).exists():
        file_sets.append(components.ADAPTER)
    elif not wanted:
        typer.echo(f"{components.ADAPTER}: not there; without it the base model is not causal")
    if not wanted and (folder / components.PORTRAITS).exists():
        file_sets.append(components.PORTRAITS)
    checked = {file_set: _check_file_set(system, folder, file_set, digests) for file_set in file_sets}
    sound = {file_set: manifest for file_set, manifest in checked.items() if manifest is not None}
    return sound, [file_set for file_set in file_sets if file_set not in sound]


def _verdict(system: Preset, folder: Path, sound: dict[str, "Manifest"], faulty: list[str]) -> list[str]:
    """The last lines of a check: whether the weights can be loaded, and their digest."""
    from live_avatar.model import components
    from live_avatar.model.weight_files import model_digest

    if faulty:
        return [f"{folder} cannot be loaded as {system.name}: {', '.join(faulty)}"]
    if any(file_set not in sound for file_set in components.FILE_SETS):
        return [f"{folder}: {', '.join(sound)} can be loaded as part of {system.name}"]
    # Training portraits change no picture: neighbours agree whether they have them or not.
    computing = [manifest for file_set, manifest in sound.items() if file_set != components.PORTRAITS]
    return [f"model digest {model_digest(computing)}", f"{folder} can be loaded as {system.name}"]


def _check_file_set(system: Preset, folder: Path, file_set: str, digests: bool) -> "Manifest | None":
    """Prints what is wrong with one file set; its manifest if it can be loaded."""
    from live_avatar.model import components
    from live_avatar.model.weight_files import WeightsError

    try:
        weights = components.open_converted(system, file_set, folder)
        difference = weights.difference(components.public_shapes(system, file_set))
        if difference.empty and digests:
            weights.verify()
    except WeightsError as error:
        typer.echo(f"{file_set}: {error}")
        return None
    for key in difference.missing:
        typer.echo(f"{file_set}: missing: {key}")
    for key, file in sorted(difference.surplus.items()):
        typer.echo(f"{file_set}: surplus: {key} in {file}")
    for _, text in sorted(difference.misshaped.items()):
        typer.echo(f"{file_set}: misshaped: {text}")
    if not difference.empty:
        return None
    typer.echo(f"{file_set}: loadable, {len(weights.entries)} tensors")
    return weights.manifest


def _memory_table(system: Preset, height: int, width: int) -> list[str]:
    """Sessions per GPU for each layout, computed."""
    one = memory.session_memory(system, height, width)
    lines = [
        f"Memory at {width}x{height}: computed, everything stored as bf16 (weights also as fp8), GB of 10^9 bytes",
        f"K/V of one session on a stage of one step: {_amount(one.window + one.sink)}"
        f" (window {_amount(one.window)}, sink {_amount(one.sink)})",
        f"  besides: un-rotated reference {_amount(one.reference)}, text {_amount(one.text)}",
        f"decoder caches of one session: {_amount(memory.decoder_bytes(system, height, width))}",
        f"kept free on every GPU: {_amount(memory.RESERVE_BYTES)} (an estimate)",
        "",
        f"{'stages x steps':16}{'weights':16}{'a session':12}sessions on a GPU of",
        " " * 44 + "".join(f"{f'{size} GB':>8}" for size in memory.GPU_SIZES_GB),
    ]
    dtypes: tuple[memory.WeightType, ...] = ("bf16", "fp8")
    for dtype in dtypes:
        rows = memory.fits(system, height, width, dtype, _companion_bytes(system))
        for stages, steps in memory.LAYOUTS:
            cells = [row for row in rows if (row.stages, row.steps_per_stage) == (stages, steps)]
            weights, session = f"{dtype} {_amount(cells[0].weights)}", _amount(cells[0].per_session)
            counts = "".join(f"{cell.sessions:8}" for cell in cells)
            lines.append(f"{f'{stages} x {steps}':16}{weights:16}{session:12}{counts}")
    lines.append("1 x 4 also encodes audio and decodes on its GPU; text is encoded on the CPU.")
    return lines


def _amount(size: int) -> str:
    """``size`` bytes in GB, or in MB where a tenth of a GB is too coarse."""
    return f"{size / memory.GB:.1f} GB" if size >= memory.GB else f"{size / memory.MB:.1f} MB"


def _companion_bytes(system: Preset) -> int:
    """Weights of the networks beside the denoiser that share a lone GPU, as bf16."""
    from live_avatar.model import components

    shapes = [components.public_shapes(system, file_set) for file_set in ("vae", "speech")]
    shapes.append(components.component_shapes(system, "audio"))
    return 2 * sum(math.prod(shape) for group in shapes for shape in group.values())


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"size {text!r} is not WIDTHxHEIGHT")
    return int(match[1]), int(match[2])
