"""Portraits and recordings of people, where a folder of them is at hand: the film is as long as the speech.

A pair is NAME.jpg with NAME.wav, looked for where the goldens look for pictures: ``--goldens DIR`` means DIR/media,
then DIR/../media.
"""

import asyncio
from pathlib import Path

import av
import numpy as np
import pytest

from live_avatar.client import AvatarClient, GenerateStats, generate_file
from live_avatar.config import TINY
from live_avatar.launcher.pipeline import LocalPipeline

pytestmark = pytest.mark.alone

FPS, DROPPED = TINY.stream.fps, TINY.stream.dropped_frames


def pairs(goldens: Path) -> list[Path]:
    """Recordings that have a portrait, of the first folder that exists."""
    folder = next((one for one in (goldens / "media", goldens.parent / "media") if one.is_dir()), None)
    found = sorted(folder.glob("*.wav")) if folder else []
    return [path for path in found if path.with_suffix(".jpg").exists()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that asks for ``recording`` once for every pair."""
    if "recording" in metafunc.fixturenames:
        found = pairs(metafunc.config.getoption("--goldens").resolve())
        metafunc.parametrize("recording", [pytest.param(path, id=path.stem) for path in found])


def length_s(path: Path) -> float:
    """Of a recording, in whatever form its samples are."""
    with av.open(path) as file:
        samples = sum(frame.samples for frame in file.decode(audio=0))
        return samples / float(file.streams.audio[0].rate)


def test_the_video_is_as_long_as_the_speech(system: LocalPipeline, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "film.mp4"

    async def run() -> GenerateStats:
        async with AvatarClient(system.gateway) as client:
            return await generate_file(client, recording.with_suffix(".jpg").read_bytes(), recording, out)

    measured, spoken_s = asyncio.run(run()), length_s(recording)
    with av.open(out) as movie:
        times = [float(frame.time) for frame in movie.decode(video=0)]
        movie.seek(0)
        received = list(movie.decode(audio=0))
    assert len(times) == measured.frames == np.ceil(round(spoken_s * FPS, 6)) - DROPPED
    assert times == pytest.approx([0.0, *((number + DROPPED) / FPS for number in range(1, len(times)))])
    assert (received[-1].time or 0.0) + received[-1].samples / received[-1].sample_rate == pytest.approx(
        spoken_s, abs=2 / FPS
    )


def test_pairs_are_found_beside_the_goldens(tmp_path: Path) -> None:
    goldens, media = tmp_path / "goldens", tmp_path / "media"
    goldens.mkdir()
    assert pairs(goldens) == []
    media.mkdir()
    for name in ("a.wav", "a.jpg", "b.wav", "c.jpg"):
        (media / name).touch()
    assert pairs(goldens) == [media / "a.wav"]
    (goldens / "media").mkdir()
    assert pairs(goldens) == []
