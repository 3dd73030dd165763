"""Runs the client for a command: a progress bar meanwhile, one clear line where it fails.

Knows the client and the terminal; nothing of processes.
"""

import asyncio
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from live_avatar.client import AvatarClient, AvatarError, Measurement, generate_file

_UNREACHABLE = "UNAVAILABLE"
"""Reason of an error that comes from no gateway."""


def make_video(
    gateway: str, image: Path, speech: Path, out: Path, *, prompt: str = "", seed: int = 0, enlargement: int = 0
) -> Measurement:
    """Writes the video of ``image`` saying ``speech`` to ``out``, with a progress bar on stderr.

    The options are those of ``generate_file``.

    Raises:
        ValueError: a file is not what it must be, or the gateway refused it, failed, or is not there.
        OSError: a file cannot be read or written.
    """
    return asyncio.run(_make(gateway, image.read_bytes(), speech, out, prompt, seed, enlargement))


async def _make(
    gateway: str, image: bytes, speech: Path, out: Path, prompt: str, seed: int, enlargement: int
) -> Measurement:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("video", total=None, said="waiting for the first frame")

        def show(done_s: float, due_s: float) -> None:
            said = f"{done_s:.1f} s" + (f" of {due_s:.1f} s" if due_s else "")
            bar.update(task, completed=done_s, total=due_s or None, said=said)

        try:
            async with AvatarClient(gateway) as client:
                return await generate_file(
                    client, image, speech, out, prompt=prompt, seed=seed, enlargement=enlargement, progress=show
                )
        except AvatarError as error:
            if error.reason == _UNREACHABLE:
                raise ValueError(f"no gateway answers at {gateway}: {error.message}") from None
            raise ValueError(f"the gateway at {gateway} says {error}") from None
