"""Videos to shards: what a sample holds, what is skipped and why, many workers, many attempts."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
import torch

from live_avatar.config import MOTION_LATENTS
from live_avatar.model import components
from live_avatar.model.vae import VAE
from live_avatar.model.weight_files import WeightsError
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.trainer.__main__ import main
from live_avatar.trainer.annotations import ClipError
from live_avatar.trainer.clip import Clip
from live_avatar.trainer.data import Dataset
from live_avatar.trainer.encoding import SampleEncoder
from live_avatar.trainer.prepare import Report, prepare, worker_index
from live_avatar.trainer.presets import PrepareConfig
from live_avatar.trainer.videos import read_video
from tests.trainer.micro import MICRO, preset_file, write_weights
from tests.trainer.videos import brightness, tone, write_counting_video, write_video

CPU = torch.device("cpu")
FRAMES = 70


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def encoder(weights: Path) -> SampleEncoder:
    return SampleEncoder(MICRO, weights, CPU)


@pytest.fixture
def config(tmp_path: Path, weights: Path) -> Iterator[PrepareConfig]:
    (tmp_path / "videos").mkdir()
    yield PrepareConfig(
        preset=preset_file(tmp_path), input=tmp_path / "videos", output=tmp_path / "data", weights=weights,
        clips_per_shard=2, blocks=5, min_blocks=2,
    )  # fmt: skip


def clip(frames: int = 24, seed: int = 0) -> Clip:
    random = np.random.default_rng(seed)
    return Clip(
        name=f"clip {seed}",
        frames=random.integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8),
        samples=random.normal(0, 0.1, frames * 640).astype(np.float32),
        prompt="a person speaks",
    )


def test_a_sample_is_what_serving_would_see(encoder: SampleEncoder, weights: Path) -> None:
    """Reference and motion are the portrait's; the clip's latents follow them as a session follows its portrait."""
    given = clip()
    sample = encoder.encode(given)
    assert sample.latents.shape == (4, 6, 8, 8)
    assert sample.speech.shape == (3, 8, 24)
    vae = cast(VAE, components.load(MICRO, "vae", weights))
    decoder = FrameDecoder(vae, MICRO.stream, use_motion=True)
    portraits = [torch.from_numpy(frame).permute(2, 0, 1) / 127.5 - 1 for frame in given.frames]
    sinks = [decoder.encode_portrait(portrait) for portrait in portraits]
    distances = [(sink.reference - sample.reference).abs().max() for sink in sinks]
    chosen = int(torch.stack(distances).argmin())
    torch.testing.assert_close(sample.reference, sinks[chosen].reference, rtol=0, atol=1e-5)
    motion = sinks[chosen].motion
    assert motion is not None and motion.shape[1] == MOTION_LATENTS
    torch.testing.assert_close(sample.motion, motion, rtol=0, atol=1e-5)


def test_speech_is_received_whole_or_as_a_stream(encoder: SampleEncoder) -> None:
    samples = clip(48).samples
    whole, stream = (encoder.speech_features(samples, 48, as_stream=as_stream) for as_stream in (False, True))
    assert whole.shape == stream.shape == (3, 8, 48)
    assert not torch.equal(whole, stream)


def skipped(folder: Path) -> dict[str, str]:
    lines = [line for path in folder.glob("skipped-*.jsonl") for line in path.read_text().splitlines()]
    return {entry["clip"]: entry["reason"] for entry in map(json.loads, lines)}


def test_bad_videos_are_named_with_the_reason_and_skipped(config: PrepareConfig) -> None:
    folder = config.input
    assert folder is not None
    write_video(folder / "a-good.mp4")
    write_video(folder / "b-silent.mp4", sound=0.0)
    write_video(folder / "c-mute.mp4", sound=None)
    write_video(folder / "d-slow.mp4", fps=5)
    write_video(folder / "e-short.mp4", frames=20)
    (folder / "f-broken.mp4").write_bytes(b"this is no video" * 100)
    cut = (folder / "a-good.mp4").read_bytes()
    (folder / "g-cut.mp4").write_bytes(cut[: len(cut) // 2])
    (folder / "a-good.txt").write_text("glad\n")
    report = prepare(config)
    assert report == Report(samples=1, skipped=6)
    reasons = skipped(config.output)
    assert set(reasons) == {f"{name}.mp4" for name in ("b-silent", "c-mute", "d-slow", "e-short", "f-broken", "g-cut")}
    assert reasons["b-silent.mp4"] == "silent"
    assert reasons["c-mute.mp4"] == "silent: no sound in it"
    assert reasons["d-slow.mp4"] == "frame rate 5, at least 12 are needed to see speech"
    assert reasons["e-short.mp4"] == "too short: 20 frames, 24 are needed"
    assert reasons["f-broken.mp4"].startswith("unreadable: ")
    assert reasons["g-cut.mp4"].startswith("unreadable: ")
    sample = Dataset(config.output, 0).sample(0)
    assert sample.latents.shape[1] == 3 * (FRAMES // 12)
    assert len(sample.text) == len("glad") + 1


def test_a_long_video_yields_several_samples(config: PrepareConfig) -> None:
    assert config.input is not None
    write_video(config.input / "long.mp4", frames=12 * 5 * 2 + 30)
    assert prepare(config).samples == 3
    lengths = sorted(Dataset(config.output, 0).sample(place).latents.shape[1] for place in range(3))
    assert lengths == [6, 15, 15]


def test_workers_share_the_work_and_a_second_call_does_none(config: PrepareConfig) -> None:
    assert config.input is not None
    for number in range(5):
        write_video(config.input / f"{number}.mp4", frames=24, seed=number)
    alone = replace(config, output=config.output.with_name("alone"))
    assert prepare(alone).samples == 5
    reports = [prepare(replace(config, index=index, count=2)) for index in range(2)]
    assert [report.samples for report in reports] == [3, 2]
    assert prepare(config) == Report(kept_shards=3)
    assert contents(config.output) == contents(alone.output)


def test_a_damaged_shard_is_made_again(config: PrepareConfig) -> None:
    assert config.input is not None
    for number in range(3):
        write_video(config.input / f"{number}.mp4", frames=24, seed=number)
    prepare(config)
    before = contents(config.output)
    path = config.output / "clips-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert prepare(config) == Report(samples=2, kept_shards=1)
    assert contents(config.output) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_number_of_a_worker_comes_from_the_cluster(config: PrepareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    assert worker_index(replace(config, count=4)) == 3
    assert worker_index(replace(config, count=4, index=1)) == 1
    with pytest.raises(ValueError, match=r"index=3 is not in 0\.\.2"):
        worker_index(replace(config, count=3))


def test_missing_encoders_and_folders_without_videos_are_named(config: PrepareConfig, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="vae"):
        prepare(replace(config, weights=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no videos"):
        prepare(config)
    with pytest.raises(ValueError, match="either --input DIR or --source NAME"):
        prepare(replace(config, source="synthetic"))


def test_sound_has_the_length_of_the_frames(tmp_path: Path) -> None:
    frames, samples = read_video(write_video(tmp_path / "a.mp4"), (64, 64), 25)
    assert frames.shape == (FRAMES, 64, 64, 3)
    assert samples.shape == (FRAMES * 640,)
    assert 0.15 < float(np.sqrt(np.mean(samples**2))) < 0.25


@pytest.mark.parametrize("rate", [15.0, 24.0, 25.0, 30_000 / 1001, 30.0, 50.0, 60.0])
def test_any_frame_rate_is_resampled_in_time(tmp_path: Path, rate: float) -> None:
    """Each frame is the one whose time is nearest, and the sound is as long as before."""
    count = round(2 * rate)
    times_s = [number / rate for number in range(count)]
    frames, samples = read_video(write_counting_video(tmp_path / "a.mp4", times_s), (64, 64), 25)
    assert abs(len(frames) - 25 * count / rate) <= 1
    assert len(samples) == 640 * len(frames)
    levels = [brightness(number, count) for number in range(count)]
    for number, shown in enumerate(frames):
        distances_s = [abs(time_s - number / 25) for time_s in times_s]
        nearest = [level for level, away in zip(levels, distances_s, strict=True) if away < min(distances_s) + 0.002]
        assert min(abs(float(shown.mean()) - level) for level in nearest) < 3, number


def test_a_changing_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    """As telephones record: 30 frames per second, then 15 in the dark, and a few that are missing."""
    times_s = [n / 30 for n in range(30)] + [1 + n / 15 for n in range(15)] + [2.3 + n / 30 for n in range(20)]
    frames, _ = read_video(write_counting_video(tmp_path / "a.mp4", times_s), (64, 64), 25)
    assert len(frames) == pytest.approx(25 * (2.3 + 20 / 30), abs=1)
    for number, shown in enumerate(frames):
        nearest = min(range(len(times_s)), key=lambda index: abs(times_s[index] - number / 25))
        around = {brightness(index, len(times_s)) for index in (nearest - 1, nearest, nearest + 1)}
        assert min(abs(float(shown.mean()) - level) for level in around) < 3, number


def test_frames_that_stop_for_long_are_no_clip(tmp_path: Path) -> None:
    times_s = [n / 25 for n in range(100)] + [7 + n / 25 for n in range(50)]
    with pytest.raises(ClipError, match=r"no frame for 3\.0 s, 4\.0 s from its beginning"):
        read_video(write_counting_video(tmp_path / "a.mp4", times_s), (64, 64), 25)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_begins_late_stays_where_it_is(tmp_path: Path, suffix: str) -> None:
    times_s = [n / 30 for n in range(60)]
    path = write_counting_video(tmp_path / f"a{suffix}", times_s, audio_from_s=0.8)
    _, samples = read_video(path, (64, 64), 25)
    begins = int(np.flatnonzero(np.abs(samples) > 0.05)[0])
    assert begins / 16_000 == pytest.approx(0.8, abs=0.03)


def test_a_name_with_a_colon_is_a_file(tmp_path: Path) -> None:
    assert len(read_video(write_video(tmp_path / "a.mp4").rename(tmp_path / "12:30.mp4"), (64, 64), 25)[0]) == FRAMES


def test_a_video_that_was_recorded_upright_is_turned(tmp_path: Path) -> None:
    """The matrix of the track says so; its frames lie on their side."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        frame = np.zeros((64, 64, 3), dtype=np.uint8)
        frame[:, :32] = 255  # bright on the left
        for _ in range(30):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        container.mux(audio.encode(tone(48_000)))
        container.mux(audio.encode(None))
    one, data = (1 << 16).to_bytes(4, "big"), path.read_bytes()
    straight = one + bytes(12) + one + bytes(12) + (1 << 30).to_bytes(4, "big")
    quarter = bytes(4) + one + bytes(4) + (-1 << 16).to_bytes(4, "big", signed=True) + bytes(16) + straight[-4:]
    track = data.index(b"tkhd")
    path.write_bytes(data[:track] + data[track:].replace(straight, quarter, 1))
    frames, _ = read_video(path, (64, 64), 25)
    assert frames[5, :20].mean() > 200, "clockwise by a quarter: the left side comes up"
    assert frames[5, 44:].mean() < 50


def test_the_command_names_what_it_skipped_at_its_end(
    config: PrepareConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config.input
    assert folder is not None and config.weights is not None
    write_video(folder / "a-good.mp4", frames=24)
    write_video(folder / "b-silent.mp4", frames=24, sound=0.0)
    options = {"preset": config.preset, "input": folder, "output": config.output, "weights": config.weights}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert main(["prepare", *arguments, "--min-blocks", "2", "--blocks", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 samples written, 1 clips skipped, 0 shards kept"
    assert lines[1] == "skipped b-silent.mp4: silent"
    assert lines[2] == f"every skipped clip and its reason: {config.output}/skipped-*.jsonl"
