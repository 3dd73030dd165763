"""``live-avatar demo``: the samples through all services on this machine, and how long everything took."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from live_avatar.cli import options, sources

if TYPE_CHECKING:
    from live_avatar.client import Measurement


def demo(
    out: options.OutOption = Path("out/demo.mp4"),
    gateway: options.GatewayOption = "",
    layout: options.LayoutOption = "4x1",
    preset: options.PresetOption = sources.DEFAULT_PRESET,
    weights: options.WeightsOption = None,
) -> None:
    """Sends the package's own portrait and speech through a pipeline on this machine."""
    from live_avatar.cli.making import make_video
    from live_avatar.cli.warnings import Warnings
    from live_avatar.client.movie import Movie, check_film
    from live_avatar.client.speech import SpeechFile

    inputs = (sources.SPEECH, sources.PORTRAIT)
    check_film(out, inputs)
    place = sources.gateway_or_pipeline(gateway, layout, preset, weights)
    portrait = sources.read_portrait(sources.PORTRAIT, decode=False)
    with SpeechFile(sources.SPEECH) as speech, Movie(out, inputs) as movie, place as address:
        made = make_video(address, portrait, speech, movie, Warnings())
    lines = [f"{out}: {made.frames} frames, {made.video_s:.2f} s, H.264 and AAC", *table(made)]
    sources.conclude(movie, *lines)


def table(made: "Measurement") -> Iterator[str]:
    """What a run took, for people."""
    yield f"frames per second   {made.frames_per_second:.1f}"
    yield f"time to first frame {made.first_frame_s:.2f} s, from the first piece of speech sent"
    yield f"{'median ms of a block':22}{'queue':>8}{'compute':>9}{'encode':>8}{'hop':>8}"
    for service, times in made.services.items():
        cells = (times.queue_s, times.compute_s, times.encode_s, times.hop_s)
        queue, compute, encode, hop = (1000 * seconds for seconds in cells)
        yield f"{service:22}{queue:8.1f}{compute:9.1f}{encode:8.1f}{hop:8.1f}"
