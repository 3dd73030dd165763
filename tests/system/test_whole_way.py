"""The package's own portrait and speech from the client to a film, through all services and a real Redis."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import redis
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from live_avatar.cli.inputs import PORTRAIT, SPEECH
from live_avatar.client import AvatarClient, GenerateStats, SessionOptions, VideoUnit, generate_file
from live_avatar.client.speech import SpeechFile
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan

from .harness.recordings import Recording, movie_of
from .harness.reference import System

pytestmark = pytest.mark.alone

LOG = logging.getLogger(__name__)
SEED, PROMPT = 11, "a person talks to the camera"
FPS = TINY.stream.fps
DROPPED = TINY.stream.dropped_frames
ENLARGEMENT = 4
"""Pictures of 64 pixels become 256."""
PREFIX = "live_avatar:"
Frames = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def tiny(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """The demo's pipeline with its sessions in a real Redis."""
    plan = Plan(layout=parse_layout("4x1"), redis=f"{redis_server}/1", logs=tmp_path_factory.mktemp("logs"))
    with LocalPipeline(plan, lambda line: None) as running:
        yield running


@pytest.fixture(scope="module")
def speech() -> npt.NDArray[np.float32]:
    """The sample speech, as the model hears it."""
    with SpeechFile(SPEECH) as file:
        assert file.rate_hz == SAMPLE_RATE_HZ
        samples = np.frombuffer(b"".join(file.chunks()), "<i2")
    return samples.astype(np.float32) / np.float32(32_768)


@pytest.fixture(scope="module")
def expected(speech: npt.NDArray[np.float32]) -> Frames:
    """The pictures [N, H, W, 3] that the library's loop makes of the samples."""
    return movie_of(
        System(TINY), Recording(face=PORTRAIT.read_bytes(), speech=speech.tobytes(), seed=SEED, prompt=PROMPT)
    )


@pytest.fixture(scope="module")
def made(tiny: LocalPipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GenerateStats]:
    """The film of the samples and what it took."""
    out = tmp_path_factory.mktemp("out") / "film.mp4"

    async def run() -> GenerateStats:
        async with AvatarClient(tiny.gateway) as client:
            return await generate_file(client, PORTRAIT.read_bytes(), SPEECH, out, prompt=PROMPT, seed=SEED)

    began = time.monotonic()
    measured = asyncio.run(run())
    LOG.info(
        "%.1f s; first frame %.2f s, %.1f frames a second",
        time.monotonic() - began,
        measured.first_frame_s,
        measured.frames_per_second,
    )
    return out, measured


def test_raw_pictures_are_those_of_the_loop(
    tiny: LocalPipeline, expected: Frames, speech: npt.NDArray[np.float32]
) -> None:
    async def run() -> list[bytes]:
        options = SessionOptions(
            sample_rate_hz=SAMPLE_RATE_HZ,
            sample_format="f32",
            video="rgb24",
            listening="whole_file",
            seed=SEED,
            prompt=PROMPT,
        )
        async with AvatarClient(tiny.gateway) as client:
            session = await client.create_session(PORTRAIT.read_bytes(), options)
            async with session.stream() as stream:
                await stream.send_audio(speech.tobytes())
                await stream.end()
                return [result.data async for result in stream if isinstance(result, VideoUnit)]

    pictures = asyncio.run(run())
    got = np.frombuffer(b"".join(pictures), np.uint8).reshape(-1, 64, 64, 3)
    assert torch.equal(torch.from_numpy(got.copy()), torch.from_numpy(expected))


def test_the_video_is_as_long_as_the_speech(made: tuple[Path, GenerateStats], speech: npt.NDArray[np.float32]) -> None:
    length_s = speech.size / SAMPLE_RATE_HZ
    blocks = -(-speech.size // TINY.samples_per_block)
    with av.open(made[0]) as movie:
        assert [stream.codec_context.name for stream in movie.streams] == ["h264", "aac"]
        times = [float(frame.time) for frame in movie.decode(video=0)]
    assert blocks * TINY.frames_per_block - DROPPED >= len(times) == made[1].frames
    assert len(times) == np.ceil(length_s * FPS) - DROPPED
    assert times == pytest.approx([0.0, *((number + DROPPED) / FPS for number in range(1, len(times)))])
    assert times[-1] + 1 / FPS == pytest.approx(length_s, abs=1 / FPS)


def test_the_videos_pictures_are_those_of_the_loop(made: tuple[Path, GenerateStats], expected: Frames) -> None:
    """As near as compression lets them be, in the planes that are compressed."""
    with av.open(made[0]) as movie:
        got = np.stack([frame.to_ndarray(format="yuv420p") for frame in movie.decode(video=0)]).astype(np.float64)
    wanted = np.stack([planes(picture) for picture in expected])
    error = np.square(got - wanted).mean((1, 2))
    psnr = 10 * np.log10(255**2 / error)
    LOG.info("PSNR of a frame: %.1f dB at worst, %.1f dB on average", psnr.min(), psnr.mean())
    assert psnr.min() > 30
    shifted = np.square(got[1:] - wanted[:-1]).mean()
    assert shifted > 4 * error.mean(), "the comparison does not see a shift by one frame"


def planes(picture: Frames) -> npt.NDArray[np.float64]:
    """A picture [H, W, 3] as luma and halved chroma, enlarged as the service enlarges small pictures."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        width=picture.shape[1] * ENLARGEMENT,
        height=picture.shape[0] * ENLARGEMENT,
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC,
    )
    return frame.to_ndarray().astype(np.float64)


def test_the_videos_speech_is_the_clients(made: tuple[Path, GenerateStats], speech: npt.NDArray[np.float32]) -> None:
    """Not a frame early or late."""
    with av.open(made[0]) as movie:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        frames = list(movie.decode(audio=0))
        first_s = frames[0].time or 0.0
        received = np.concatenate([one.to_ndarray()[0] for frame in frames for one in resampler.resample(frame)])
    length = min(received.size, speech.size)
    spectra = np.fft.rfft(received[:length], 2 * length), np.fft.rfft(speech[:length], 2 * length)
    match = np.fft.irfft(spectra[0] * spectra[1].conj())
    lag = int(np.argmax(match))
    lag_s = (lag - 2 * length if lag > length else lag) / SAMPLE_RATE_HZ + first_s
    likeness = match.max() / np.linalg.norm(received[:length]) / np.linalg.norm(speech[:length])
    LOG.info("the speech is %.1f ms late, correlation %.3f", 1000 * lag_s, likeness)
    assert abs(lag_s) < 1 / FPS
    assert likeness > 0.9
    assert received.size / SAMPLE_RATE_HZ == pytest.approx(speech.size / SAMPLE_RATE_HZ, abs=2 / FPS)


WITHOUT_END = -1
"""What Redis says of a key that stays for ever; of one that has just ended it says -2."""
ENDING = {"session", "request", "claims", "probe", "admissions", "calls", "media"}
"""Kinds of keys that end by themselves: the last two count what tenants use in a minute, a day and a month."""
KEPT = {"tenant", "usage"}
"""Kinds of keys whose entries are removed with age: sessions of a tenant, and usage records."""


def test_what_is_left_in_redis_ends_by_itself(
    tiny: LocalPipeline, made: tuple[Path, GenerateStats], redis_server: str
) -> None:
    """Records of what has been, which can be read for a while, and marks of a few seconds; no lease and no place."""
    with redis.Redis.from_url(f"{redis_server}/1") as store:
        assert await_no_lease(store)
        for raw in store.keys("*"):
            key = raw.decode()
            kind = key.removeprefix(PREFIX).partition(":")[0]
            assert key.startswith(PREFIX)
            assert kind in ENDING | KEPT, key
            assert kind in KEPT or store.pttl(key) != WITHOUT_END, key


def await_no_lease(store: "redis.Redis") -> bool:
    """Whether the last lease is given back soon."""
    deadline = time.monotonic() + 5
    while store.keys(f"{PREFIX}lease:*") and time.monotonic() < deadline:
        time.sleep(0.05)
    return not store.keys(f"{PREFIX}lease:*")
