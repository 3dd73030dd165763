"""A portrait and a recording to an MP4 file, against a gateway without a pipeline."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import av
import grpc
import numpy as np
import pytest

from live_avatar.client import AvatarClient, AvatarError, GenerateStats, generate_file
from live_avatar.v1 import avatar_service_pb2 as api

from .fake_gateway import FakeGateway, Requests, Response, fake_gateway, rich_status, serving
from .sound_files import coded, damage, tone, write_wav

RATE_HZ = 16_000


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    write_wav(tmp_path / "speech.wav", tone(RATE_HZ, 2.0), RATE_HZ)
    return tmp_path / "speech.wav"


def make(
    gateway: FakeGateway, speech: Path, out: Path, image: bytes = b"an image"
) -> tuple[GenerateStats, list[float]]:
    """The measurement, and the progress that was told."""
    reported: list[float] = []

    async def main() -> GenerateStats:
        with serving(gateway) as address:
            async with AvatarClient(address) as client:
                return await generate_file(client, image, speech, out, progress=lambda done, due: reported.append(done))

    return asyncio.run(main()), reported


def test_the_file_holds_all_frames_and_the_speech_in_sync(speech: Path, tmp_path: Path) -> None:
    gateway, out = fake_gateway(), tmp_path / "deep" / "out.mp4"
    measured, reported = make(gateway, speech, out)
    data = out.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    with av.open(out) as file:
        assert file.streams.video[0].start_time == 0
        frames = list(file.decode(video=0))
    with av.open(out) as file:
        rate_hz = file.streams.audio[0].rate
        samples = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    assert len(frames) == measured.frames == 5 * 12 - 3
    assert [round(frame.time * 25) for frame in frames if frame.time is not None] == [0, *range(4, 60)]
    middle = slice(rate_hz // 2, rate_hz)
    assert np.corrcoef(samples[middle], tone(rate_hz, 2.0)[middle])[0, 1] > 0.99
    assert reported == sorted(reported) and reported[-1] == measured.video_s == 2.4
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_the_measurement_has_medians_of_every_service(speech: Path, tmp_path: Path) -> None:
    measured, _ = make(fake_gateway(), speech, tmp_path / "out.mp4")
    assert measured.first_frame_s > 0
    assert measured.frames_per_second > 0
    assert measured.services["decoder"].compute_s == pytest.approx(0.035)  # of 10, 20, 30, 40, 50 and 60 ms


@pytest.mark.parametrize(("seconds", "listening"), [(2, api.LISTENING_WHOLE_FILE), (11, api.LISTENING_STREAMING)])
def test_a_long_recording_is_streamed(tmp_path: Path, seconds: int, listening: int) -> None:
    gateway = fake_gateway()
    write_wav(tmp_path / "a.wav", tone(8_000, seconds), 8_000)
    make(gateway, tmp_path / "a.wav", tmp_path / "out.mp4")
    assert gateway.created[0].config.listening == listening
    assert gateway.speech == tone(8_000, seconds).tobytes()


def test_an_image_over_the_limit_is_not_sent(speech: Path, tmp_path: Path) -> None:
    gateway = fake_gateway()
    with pytest.raises(ValueError, match="the image has 100001 bytes, the gateway takes 100000"):
        make(gateway, speech, tmp_path / "out.mp4", bytes(100_001))
    assert not gateway.created


def test_a_failure_leaves_no_file_and_closes_the_session(speech: Path, tmp_path: Path) -> None:
    def deliver(self: FakeGateway, requests: Requests) -> Iterator[Response]:
        self.receive(requests)
        self.refusal = rich_status(grpc.StatusCode.UNAVAILABLE, "STAGE_LOST")
        yield from ()

    gateway = fake_gateway()
    gateway.deliver = deliver
    with pytest.raises(AvatarError, match="STAGE_LOST"):
        make(gateway, speech, tmp_path / "out.mp4")
    assert gateway.closed == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["speech.wav"]


def test_a_recording_without_a_frame_is_an_error(tmp_path: Path) -> None:
    def deliver(self: FakeGateway, requests: Requests) -> Iterator[Response]:
        self.receive(requests)
        yield from ()

    gateway = fake_gateway()
    gateway.deliver = deliver
    write_wav(tmp_path / "a.wav", tone(RATE_HZ, 0.01), RATE_HZ)
    with pytest.raises(ValueError, match="too short for a single frame"):
        make(gateway, tmp_path / "a.wav", tmp_path / "out.mp4")


def test_a_warning_is_passed_on_and_ends_nothing(speech: Path, tmp_path: Path) -> None:
    def deliver(gateway: FakeGateway, requests: Requests) -> Iterator[Response]:
        reported = rich_status(grpc.StatusCode.FAILED_PRECONDITION, "PORTRAIT_UNLIKE_TRAINING")
        yield Response(event=Response.Event(kind=Response.Event.KIND_WARNING, warning=reported))
        yield from gateway.talk(requests)

    gateway, warnings = fake_gateway(), list[AvatarError]()
    gateway.deliver = deliver

    async def main(address: str) -> GenerateStats:
        async with AvatarClient(address) as client:
            return await generate_file(client, b"an image", speech, tmp_path / "out.mp4", warn=warnings.append, seed=5)

    with serving(gateway) as address:
        assert asyncio.run(main(address)).frames == 5 * 12 - 3
    assert [(one.reason, one.message) for one in warnings] == [("PORTRAIT_UNLIKE_TRAINING", "a sentence")]
    assert gateway.created[0].config.seed == 5


def test_a_recording_that_is_longer_than_it_says_is_streamed_and_a_damaged_one_reported(tmp_path: Path) -> None:
    """The gateway's limit is 10 s: AAC of 10 s is a little longer."""
    gateway = fake_gateway()
    (tmp_path / "a.m4a").write_bytes(coded("ipod", "aac", tone(24_000, 10), 24_000))
    measured, _ = make(gateway, tmp_path / "a.m4a", tmp_path / "out.mp4")
    assert gateway.created[0].config.listening == api.LISTENING_STREAMING
    assert measured.warnings == ()
    gateway = fake_gateway()
    mp3 = coded("mp3", "libmp3lame", tone(16_000, 3), 16_000)
    (tmp_path / "b.mp3").write_bytes(damage(mp3, [slice(30, 34)]))
    measured, _ = make(gateway, tmp_path / "b.mp3", tmp_path / "out.mp4")
    assert gateway.created[0].config.listening == api.LISTENING_WHOLE_FILE
    assert ["damaged" in warning for warning in measured.warnings] == [True]
