"""``live-avatar generate``: a portrait and a recording to a video file."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from live_avatar.cli import sources
from live_avatar.cli.up import LayoutOption, PresetOption, WeightsOption
from live_avatar.launcher.layout import parse_layout


def generate(
    out: Annotated[Path, typer.Option(help="The MP4 file to write.", dir_okay=False)],
    audio: Annotated[
        Path, typer.Option(help="Speech: WAV, MP3, FLAC or whatever FFmpeg reads.", dir_okay=False)
    ] = sources.SPEECH,
    image: Annotated[Path, typer.Option(help="Portrait: JPEG, PNG or WebP.", dir_okay=False)] = sources.PORTRAIT,
    gateway: Annotated[str, typer.Option(help="host:port; without it a pipeline is started here and ended.")] = "",
    prompt: Annotated[str, typer.Option(help="What the picture shows.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same video.", min=0)] = 0,
    enlargement: Annotated[
        int, typer.Option(help="The video is so many times larger than what is generated; 0: small ones are.", min=0)
    ] = 0,
    layout: LayoutOption = "4x1",
    preset: PresetOption = sources.DEFAULT_PRESET,
    weights: WeightsOption = None,
) -> None:
    """Makes a video of a portrait that speaks a recording."""
    from live_avatar.cli.making import make_video
    from live_avatar.client.speech import SpeechFile
    from live_avatar.launcher.pipeline import Plan

    with SpeechFile(audio):
        pass  # a wrong file is told before anything is started
    plan = Plan(layout=parse_layout(layout), preset=preset, weights=sources.weights_of(preset, weights))
    with nullcontext(gateway) if gateway else sources.gateway_of(plan) as address:
        made = make_video(address, image, audio, out, prompt=prompt, seed=seed, enlargement=enlargement)
    if not gateway and plan.weights is None:
        sources.report(sources.RANDOM_WEIGHTS)
    typer.echo(f"{out}: {made.frames} frames, {made.video_s:.2f} s")
