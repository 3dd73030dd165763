"""``live-avatar generate``: a portrait and a recording to a video file."""

from pathlib import Path
from typing import Annotated

import typer

from live_avatar import limits
from live_avatar.cli import inputs, options
from live_avatar.cli.access import Access


def generate(
    out: options.OutOption,
    audio: Annotated[
        Path,
        typer.Option(
            help=f"Speech: {options.AUDIO_HELP} Up to {limits.MAX_WHOLE_FILE_S} s are encoded as a whole, "
            "a longer one as it comes. Default: the package's own.",
            show_default=False,
        ),
    ] = inputs.SPEECH,
    image: options.ImageOption = inputs.PORTRAIT,
    gateway: options.GatewayOption = "",
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
    prompt: options.PromptOption = "",
    seed: options.SeedOption = 0,
    enlargement: options.EnlargementOption = 0,
    resume: options.ResumeOption = True,
    layout: options.LayoutOption = "4x1",
    preset: options.PresetOption = inputs.DEFAULT_PRESET,
    weights: options.WeightsOption = None,
) -> None:
    """Makes a video of a portrait that speaks a recording."""
    from live_avatar.cli.generate_runner import make_video
    from live_avatar.cli.novelty import warn_if_unlike
    from live_avatar.cli.signing import movie_signing
    from live_avatar.cli.warnings import Warnings
    from live_avatar.client.movie import Movie, check_video_path
    from live_avatar.client.speech import SpeechFile

    check_video_path(out, (audio, image))
    inputs.check_prompt(prompt)
    signing = movie_signing()
    place = inputs.gateway_or_pipeline(gateway, Access(ca, api_key, insecure), layout, preset, weights)
    portrait, warnings = inputs.read_portrait(image, decode=not gateway), Warnings()
    if not gateway:
        warn_if_unlike(portrait, preset, inputs.weights_of(preset, weights), warnings)
    with SpeechFile(audio) as speech, Movie(out, (audio, image), signing) as movie, place as reached:
        made = make_video(
            reached,
            portrait,
            speech,
            movie,
            warnings,
            resume=resume,
            prompt=prompt,
            seed=seed,
            enlargement=enlargement,
        )
    for warning in made.warnings:
        warnings.show(warning, warning)
    inputs.conclude(movie, f"{out}: {made.frames} frames, {made.video_s:.2f} s")
