"""``live-avatar demo``: the samples through all services on this machine, and how long everything took."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from live_avatar.cli import inputs, options
from live_avatar.cli.access import Access

if TYPE_CHECKING:
    from live_avatar.client import GenerateStats


def demo(
    out: options.OutOption = Path("out/demo.mp4"),
    gateway: options.GatewayOption = "",
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
    resume: options.ResumeOption = True,
    layout: options.LayoutOption = "4x1",
    preset: options.PresetOption = inputs.DEFAULT_PRESET,
    weights: options.WeightsOption = None,
) -> None:
    """Sends the package's own portrait and speech through a pipeline on this machine."""
    from live_avatar.cli.generate_runner import make_video
    from live_avatar.cli.signing import movie_signing
    from live_avatar.cli.warnings import Warnings
    from live_avatar.client.movie import Movie, check_video_path
    from live_avatar.client.speech import SpeechFile

    files_read = (inputs.SPEECH, inputs.PORTRAIT)
    check_video_path(out, files_read)
    signing = movie_signing()
    place = inputs.gateway_or_pipeline(gateway, Access(ca, api_key, insecure), layout, preset, weights)
    portrait = inputs.read_portrait(inputs.PORTRAIT, decode=False)
    with SpeechFile(inputs.SPEECH) as speech, Movie(out, files_read, signing) as movie, place as reached:
        made = make_video(reached, portrait, speech, movie, Warnings(), resume=resume)
    lines = [f"{out}: {made.frames} frames, {made.video_s:.2f} s, H.264 and AAC", *table(made)]
    inputs.conclude(movie, *lines)


def table(made: "GenerateStats") -> Iterator[str]:
    """What a run took, for people."""
    yield f"frames per second   {made.frames_per_second:.1f}"
    yield f"time to first frame {made.first_frame_s:.2f} s, from the first piece of speech sent"
    yield f"{'median ms of a block':22}{'queue':>8}{'compute':>9}{'encode':>8}{'hop':>8}"
    for service, times in made.services.items():
        cells = (times.queue_s, times.compute_s, times.encode_s, times.hop_s)
        queue, compute, encode, hop = (1000 * seconds for seconds in cells)
        yield f"{service:22}{queue:8.1f}{compute:9.1f}{encode:8.1f}{hop:8.1f}"
