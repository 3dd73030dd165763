"""The public metrics of talking heads, of any folder of videos, as far as their weights are on this machine.

Nothing is fetched.  What is missing of each metric is said; the rest is measured.

Letters: T frames, H and W pixels.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import av

from evaluation import public_networks
from evaluation.public_networks import Videos
from live_avatar.files import ffmpeg_name, write_text
from live_avatar.trainer.videos import SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One network that looks at videos, and what it takes to ask it."""

    name: str
    files: tuple[str, ...]
    """Its weights, in the folder of weights."""
    modules: tuple[str, ...]
    """Libraries that must be installed."""
    programs: tuple[str, ...] = ()
    compares: bool = False
    """Whether it needs true videos."""
    compute: Callable[[Videos], Mapping[str, float]]

    def missing(self, weights: Path, truth: Path | None) -> list[str]:
        """What is not there, in words."""
        lacking = [f"weights {weights / file}" for file in self.files if not (weights / file).exists()]
        lacking += [f"Python package {module}" for module in self.modules if find_spec(module) is None]
        lacking += [f"program {program}" for program in self.programs if shutil.which(program) is None]
        return lacking + ["true videos: --true-videos FOLDER"] * (self.compares and truth is None)


METRICS = (
    Metric(
        name="Sync-C, Sync-D (SyncNet)",
        files=("syncnet_v2.model", "sfd_face.pth"),
        modules=("syncnet_python",),
        programs=("ffmpeg",),
        compute=public_networks.syncnet,
    ),
    Metric(
        name="likeness to the first picture (DINOv2)",
        files=("dinov2/config.json", "dinov2/model.safetensors"),
        modules=("transformers",),
        compute=public_networks.dinov2,
    ),
    Metric(
        name="FID (Inception)",
        files=("inception-2015-12-05.pt",),
        modules=("torchmetrics",),
        compares=True,
        compute=public_networks.inception_distance,
    ),
    Metric(
        name="FVD (I3D)",
        files=("i3d_torchscript.pt",),
        modules=("torchmetrics",),
        compares=True,
        compute=public_networks.video_distance,
    ),
)


def measure(folder: Path, truth: Path | None, weights: Path, out: Path) -> int:
    """Measures what can be measured, and writes ``videos.md`` and ``videos.json``; 1 where that is nothing."""
    try:
        videos = Videos(readable(folder), () if truth is None else readable(truth), weights)
    except ValueError as error:
        print(error)
        return 1
    found: dict[str, float] = {}
    rows = ["| metric | value | missing |", "|---|---|---|"]
    for metric in METRICS:
        lacking, values = metric.missing(weights, truth), dict[str, float]()
        if not lacking:
            try:
                values = dict(metric.compute(videos))
            except (ValueError, RuntimeError, OSError) as error:
                lacking = [f"failed: {error}"]
        found |= values
        numbers = ", ".join(f"{key} {value:.3f}" for key, value in values.items())
        rows.append(f"| {metric.name} | {numbers} | {'; '.join(lacking)} |")
    text = "\n".join([f"# {len(videos.made)} videos of {folder.name}", "", *rows, ""])
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "videos.md", text)
    write_text(out / "videos.json", json.dumps(found, indent=1) + "\n")
    print(text)
    return 0 if found else 1


def readable(folder: Path) -> Sequence[Path]:
    """The videos of ``folder``; those without pictures are named and left out.

    Raises:
        ValueError: there is none.
    """
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            with av.open(ffmpeg_name(path)) as container:
                next(container.decode(video=0))
        except (av.error.FFmpegError, IndexError, StopIteration, OSError) as error:
            print(f"{path.name} is left out: {error or type(error).__name__}")
        else:
            found.append(path)
    if not found:
        raise ValueError(f"{folder}: no video that can be read ({', '.join(SUFFIXES)})")
    return found
