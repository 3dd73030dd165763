"""Runs the client for a command, with a progress bar meanwhile.

Knows the client and the terminal; nothing of processes.
"""

from typing import Unpack

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from live_avatar.cli.gateway import Gateway
from live_avatar.cli.gateway_errors import clear_errors
from live_avatar.cli.signals import run
from live_avatar.cli.warnings import Warnings
from live_avatar.client import AvatarError, GenerateOptions, GenerateStats, generate_file
from live_avatar.client.movie import Movie
from live_avatar.client.speech import SpeechFile


def make_video(
    gateway: Gateway,
    image: bytes,
    speech: SpeechFile,
    out: Movie,
    warnings: Warnings,
    *,
    resume: bool = True,
    **options: Unpack[GenerateOptions],
) -> GenerateStats:
    """Writes the video of ``image`` saying ``speech`` to ``out``, with a progress bar and warnings on stderr.

    Raises:
        ValueError: a file is not what it must be, or the gateway refused it.
        OSError: a file cannot be read or written, or the gateway failed or is not there.
    """
    return run(_make(gateway, image, speech, out, warnings, options, resume=resume))


async def _make(
    gateway: Gateway,
    image: bytes,
    speech: SpeechFile,
    out: Movie,
    warnings: Warnings,
    options: GenerateOptions,
    *,
    resume: bool,
) -> GenerateStats:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"), TimeElapsedColumn())
    with clear_errors(gateway.address), Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("video", total=None, status="waiting for the first frame")

        def show(done_s: float, due_s: float) -> None:
            status = f"{done_s:.1f} s" + (f" of {due_s:.1f} s" if due_s else "")
            bar.update(task, completed=done_s, total=due_s or None, status=status)

        def warn(warning: AvatarError) -> None:
            warnings.show(warning.reason, warning.message)

        async with gateway.connect() as client:
            return await generate_file(
                client, image, speech, out, progress=show, warn=warn, report=warnings.report, resume=resume, **options
            )
