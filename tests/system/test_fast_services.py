"""The faster ways as real services: pictures of a session against those of the library's slow loop."""

import asyncio
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from live_avatar.cli.inputs import PORTRAIT
from live_avatar.client import AvatarClient, SessionOptions, VideoUnit
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan, Speed
from live_avatar.services.denoise_stage import quantization_check

from .harness.recordings import Recording, movie_of
from .harness.reference import System

pytestmark = [pytest.mark.alone, pytest.mark.proof, pytest.mark.timeout(900)]

SEED, BLOCKS = 5, 6
Frames = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def speech() -> npt.NDArray[np.float32]:
    """Noise at the level of speech."""
    samples: npt.NDArray[np.float64] = np.random.default_rng(0).standard_normal(BLOCKS * TINY.samples_per_block)
    return (0.1 * samples).astype(np.float32)


@pytest.fixture(scope="module")
def expected(speech: npt.NDArray[np.float32]) -> Frames:
    """The pictures [N, H, W, 3] that the library's loop makes."""
    return movie_of(System(TINY), Recording(face=PORTRAIT.read_bytes(), speech=speech.tobytes(), seed=SEED, prompt=""))


def movie(plan: Plan, speech: npt.NDArray[np.float32]) -> Frames:
    """The pictures that the services of ``plan`` make."""

    async def run(gateway: str) -> list[bytes]:
        options = SessionOptions(
            sample_rate_hz=SAMPLE_RATE_HZ, sample_format="f32", video="rgb24", listening="whole_file", seed=SEED
        )
        async with AvatarClient(gateway) as client:
            session = await client.create_session(PORTRAIT.read_bytes(), options)
            async with session.stream() as stream:
                await stream.send_audio(speech.tobytes())
                await stream.end()
                return [result.data async for result in stream if isinstance(result, VideoUnit)]

    with LocalPipeline(plan, lambda line: None) as running:
        pictures = asyncio.run(run(running.gateway))
    return np.frombuffer(b"".join(pictures), np.uint8).reshape(-1, 64, 64, 3)


def test_compiled_services_make_the_same_video(
    speech: npt.NDArray[np.float32], expected: Frames, tmp_path: Path
) -> None:
    """Another order of summation: a level of 255 here and there."""
    got = movie(Plan(layout=parse_layout("1x4"), logs=tmp_path, speed=Speed(compiled=True)), speech)
    apart = np.abs(got.astype(int) - expected.astype(int))
    assert apart.max() <= 2
    assert (apart > 0).mean() < 0.01


def test_services_with_8_bit_floats_make_a_video_near_it(
    speech: npt.NDArray[np.float32], expected: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.json"
    monkeypatch.setattr("sys.argv", ["gate", "--preset", "TINY", "--blocks", "4", "--fp8-kv", "--out", str(report)])
    quantization_check.main()
    plan = Plan(layout=parse_layout("2x2"), logs=tmp_path, speed=Speed(fp8_report=report, fp8_kv=True))
    got = movie(plan, speech)
    error = np.square(got.astype(float) - expected.astype(float)).mean()
    assert 0 < error < 255**2 / 10**2.5, "8-bit floats are on, and within 25 dB"
