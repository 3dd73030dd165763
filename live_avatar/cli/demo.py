"""``live-avatar demo``: the samples through all services on this machine, and how long everything took."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from live_avatar.cli import sources
from live_avatar.cli.up import LayoutOption, PresetOption, WeightsOption
from live_avatar.launcher.layout import parse_layout

if TYPE_CHECKING:
    from live_avatar.client import Measurement


def demo(
    out: Annotated[Path, typer.Option(help="The MP4 file to write.", dir_okay=False)] = Path("out/demo.mp4"),
    layout: LayoutOption = "4x1",
    preset: PresetOption = sources.DEFAULT_PRESET,
    weights: WeightsOption = None,
) -> None:
    """Sends the package's own portrait and speech through a pipeline on this machine."""
    from live_avatar.cli.making import make_video
    from live_avatar.launcher.pipeline import Plan

    plan = Plan(layout=parse_layout(layout), preset=preset, weights=sources.weights_of(preset, weights))
    with sources.gateway_of(plan) as gateway:
        made = make_video(gateway, sources.PORTRAIT, sources.SPEECH, out)
    typer.echo(f"{out}: {made.frames} frames, {made.video_s:.2f} s, H.264 and AAC")
    for line in table(made):
        typer.echo(line)
    if plan.weights is None:
        typer.echo(sources.RANDOM_WEIGHTS)


def table(made: "Measurement") -> Iterator[str]:
    """What a run took, for people."""
    yield f"frames per second   {made.frames_per_second:.1f}"
    yield f"time to first frame {made.first_frame_s:.2f} s, from the first piece of speech sent"
    yield f"{'median ms of a block':22}{'queue':>8}{'compute':>9}{'encode':>8}{'hop':>8}"
    for service, times in made.services.items():
        cells = (times.queue_s, times.compute_s, times.encode_s, times.hop_s)
        queue, compute, encode, hop = (1000 * seconds for seconds in cells)
        yield f"{service:22}{queue:8.1f}{compute:9.1f}{encode:8.1f}{hop:8.1f}"
