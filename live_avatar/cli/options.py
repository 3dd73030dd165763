"""Options that several commands have, with what a user must know of each: unit, range, default, limits.

The numbers are those that the code enforces.
"""

from pathlib import Path
from typing import Annotated

import typer

from live_avatar import limits
from live_avatar.config import MAX_STEPS, PRESETS

_VIDEO = (
    "MP4 with H.264 and AAC; the name ends in .mp4 or .m4v, or has no ending. Of a link the target is replaced; "
    "a pipe or /dev/stdout gets the video as it comes."
)

OutOption = Annotated[Path, typer.Option(help=f"Video file to write: {_VIDEO}")]
OptionalOutOption = Annotated[Path | None, typer.Option(help=f"Video file to write besides: {_VIDEO} Default: none.")]
AUDIO_HELP = (
    "WAV, MP3, FLAC or whatever else FFmpeg reads, of any sample rate and number of channels, which are mixed to one; "
    f"rates outside {limits.MIN_RATE_HZ}..{limits.MAX_RATE_HZ} Hz are resampled."
)
ImageOption = Annotated[
    Path,
    typer.Option(
        help=f"Portrait: {limits.IMAGE_FORMATS}, at most {limits.MAX_IMAGE_BYTES / 2**20:.1f} MiB "
        f"and {limits.MAX_IMAGE_PIXELS // 10**6} megapixels. Default: the package's own.",
        show_default=False,
    ),
]
ResumeOption = Annotated[bool, typer.Option(help="Go on where the stream to the gateway breaks.")]
GatewayOption = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="Gateway to use, such as 127.0.0.1:50051. Default: a pipeline is started here and ended.",
        show_default=False,
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Authority of the gateway's certificate, as PEM; the line is encrypted then. Default: the public "
        "ones where the gateway is given as grpcs://HOST:PORT, and plain text otherwise.",
        show_default=False,
    ),
]
RequiredGatewayOption = Annotated[
    str, typer.Option("--gateway", metavar="HOST:PORT", help="Gateway to ask, such as 127.0.0.1:50051.")
]
ApiKeyOption = Annotated[
    str,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="LIVE_AVATAR_API_KEY",
        help="API key or token for the gateway. Other users of this machine can read a command line: prefer the "
        "environment. Default: none.",
        show_default=False,
    ),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Send the API key in plain text to other machines too.")
]
PromptOption = Annotated[
    str,
    typer.Option(
        help=f"What the video shows, at most {limits.MAX_PROMPT_CHARACTERS} characters. Default: none.",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        help="Start of the random numbers, 0..2^64-1: the same seed gives the same video.", min=0, max=limits.MAX_SEED
    ),
]
EnlargementOption = Annotated[
    int,
    typer.Option(
        help=f"How many times larger than generated the video is, 0..{limits.MAX_UPSCALE_FACTOR}; "
        "0: the gateway decides, and enlarges only small ones.",
        min=0,
        max=limits.MAX_UPSCALE_FACTOR,
    ),
]
LayoutOption = Annotated[
    str,
    typer.Option(
        help="How the denoising steps are spread over processes: STAGESxSTEPS, such as 4x1, 2x2 or 1x4, or the steps "
        f"of each stage, such as 0-1/2/3; 1..{MAX_STEPS} steps on 1..{limits.MAX_STAGES} stages."
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder that live-avatar weights convert wrote, or the word random. "
        "Default: the package's own for TINY and TINY_128, random ones for others.",
    ),
]
PresetOption = Annotated[
    str, typer.Option(help=f"The system to run: {', '.join(PRESETS)}, or a .json file that describes one.")
]
LogsOption = Annotated[Path, typer.Option(help="Folder for what the services log; it is made.")]
