"""``live-avatar demo``: the whole system, all services as processes."""

import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from live_avatar.cli import inputs
from live_avatar.cli.demo import table
from live_avatar.client import GenerateStats, ServiceTimes

COMMAND = [sys.executable, "-c", "from live_avatar.cli.main import app; app()"]


def test_the_table_has_a_line_per_service_in_milliseconds() -> None:
    times = ServiceTimes(queue_s=0.001, compute_s=0.02, encode_s=0.0, hop_s=0.0015)
    made = GenerateStats(frames=9, video_s=0.48, first_frame_s=1.25, frames_per_second=31.26, services={"vae": times})
    lines = list(table(made))
    assert lines[0].split() == ["frames", "per", "second", "31.3"]
    assert "1.25 s" in lines[1]
    assert lines[-1].split() == ["vae", "1.0", "20.0", "0.0", "1.5"]


@pytest.mark.slow
def test_the_samples_go_through_all_services(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--layout", "1x4", "--out", "out.mp4"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "starting TINY on this machine, services: 4" in done.stderr
    assert "out.mp4: 165 frames, 6.72 s, H.264 and AAC" in done.stdout
    assert done.stdout.endswith(inputs.RANDOM_WEIGHTS + "\n") == (not inputs.TRAINED.is_dir())
    rows = {
        line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if re.search(r"(\d+\.\d +){3}", line)
    }
    assert list(rows) == ["audio-encoder", "denoise-stage-0", "vae-decoder", "gateway"]
    assert all(float(row[1]) > 0 for name, row in rows.items() if name != "gateway")
    with av.open(tmp_path / "out.mp4") as file:
        assert [stream.codec_context.name for stream in file.streams] == ["h264", "aac"]
        frames = list(file.decode(video=0))
    assert [round(frame.time * 25) for frame in frames if frame.time is not None] == [0, *range(4, 168)]
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    assert pictures.std(axis=(0, 1, 2)).min() > 1, "the picture neither moves nor varies"
    with av.open(inputs.SPEECH) as speech:
        spoken_s = sum(frame.samples for frame in speech.decode(audio=0)) / 16_000
    last = frames[-1].time
    assert last is not None and last <= spoken_s < last + 1 / 25
