"""``live-avatar talk``: a live conversation with the avatar, and what a viewer would notice of it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from live_avatar.cli import sources
from live_avatar.cli.up import LayoutOption, PresetOption, WeightsOption
from live_avatar.launcher.layout import parse_layout

NO_MICROPHONE = "no microphone can be used here: pip install sounddevice, or give --audio FILE"


def talk(
    audio: Annotated[
        Path | None, typer.Option(help="Speech, sent at its own pace; without it the microphone.", dir_okay=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="MP4 file to write besides.", dir_okay=False)] = None,
    image: Annotated[Path, typer.Option(help="Portrait: JPEG, PNG or WebP.", dir_okay=False)] = sources.PORTRAIT,
    gateway: Annotated[str, typer.Option(help="host:port; without it a pipeline is started here and ended.")] = "",
    prompt: Annotated[str, typer.Option(help="What the picture shows.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same faces.", min=0)] = 0,
    layout: LayoutOption = "4x1",
    preset: PresetOption = sources.DEFAULT_PRESET,
    weights: WeightsOption = None,
) -> None:
    """Speaks live to the avatar; shows lead, reaction time and late frames."""
    from live_avatar.cli.talking import from_file, from_microphone, has_microphone, hold_talk
    from live_avatar.launcher.pipeline import Plan

    if audio is None and not has_microphone():
        raise ValueError(NO_MICROPHONE)
    speech = from_file(audio) if audio is not None else from_microphone()
    plan = Plan(layout=parse_layout(layout), preset=preset, weights=sources.weights_of(preset, weights))
    with speech, nullcontext(gateway) if gateway else sources.gateway_of(plan) as address:
        seen = hold_talk(address, image, speech, out, prompt=prompt, seed=seed)
    if not gateway and plan.weights is None:
        sources.report(sources.RANDOM_WEIGHTS)
    reactions = ", ".join(f"{seconds:.2f} s" for seconds in seen.reactions_s) or "none"
    typer.echo(f"{seen.video_s:.2f} s of video, {seen.late_frames} late frames, reaction {reactions}")
    if out is not None:
        typer.echo(f"{out}: H.264 and AAC")
