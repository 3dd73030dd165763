"""``live-avatar talk``: a live conversation with the avatar, and what a viewer would notice of it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from live_avatar.cli import inputs, options
from live_avatar.cli.access import Access

NO_MICROPHONE = "no microphone can be used here: pip install sounddevice, or give --audio FILE"


def talk(
    audio: Annotated[
        Path | None,
        typer.Option(help=f"Speech, sent at its own pace: {options.AUDIO_HELP} Default: the microphone, until Ctrl-C."),
    ] = None,
    out: options.OptionalOutOption = None,
    image: options.ImageOption = inputs.PORTRAIT,
    gateway: options.GatewayOption = "",
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
    prompt: options.PromptOption = "",
    seed: options.SeedOption = 0,
    resume: options.ResumeOption = True,
    layout: options.LayoutOption = "4x1",
    preset: options.PresetOption = inputs.DEFAULT_PRESET,
    weights: options.WeightsOption = None,
) -> None:
    """Speaks live to the avatar; shows lead, reaction time and late frames, and what made the video stand still."""
    from live_avatar.cli.novelty import warn_if_unlike
    from live_avatar.cli.signing import movie_signing
    from live_avatar.cli.talk_runner import conclusions, from_file, from_microphone, has_microphone, hold_talk
    from live_avatar.cli.warnings import Warnings
    from live_avatar.client.movie import Movie, check_video_path

    files_read = (image,) if audio is None else (audio, image)
    if out is not None:
        check_video_path(out, files_read)
    if audio is None and not has_microphone():
        raise ValueError(NO_MICROPHONE)
    inputs.check_prompt(prompt)
    signing = movie_signing()
    place = inputs.gateway_or_pipeline(gateway, Access(ca, api_key, insecure), layout, preset, weights)
    portrait, warnings = inputs.read_portrait(image, decode=not gateway), Warnings()
    if not gateway:
        warn_if_unlike(portrait, preset, inputs.weights_of(preset, weights), warnings)
    with (
        from_file(audio) if audio is not None else from_microphone() as speech,
        nullcontext() if out is None else Movie(out, files_read, signing) as movie,
        place as reached,
    ):
        seen = hold_talk(reached, portrait, speech, movie, warnings, prompt=prompt, seed=seed, resume=resume)
    if seen.disclosure:
        inputs.report(seen.disclosure)
    for warning in speech.warnings:
        warnings.show(warning, warning)
    reactions = ", ".join(f"{seconds:.2f} s" for seconds in seen.reactions_s) or "none"
    summary = f"{seen.video_s:.2f} s of video, {seen.late_frames} late frames, reaction {reactions}"
    inputs.conclude(movie, summary, *conclusions(seen), *(() if out is None else (f"{out}: H.264 and AAC",)))
