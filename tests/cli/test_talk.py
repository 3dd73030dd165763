"""``live-avatar talk`` against a gateway without a pipeline."""

import re
import time
import wave
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from live_avatar.cli import talk_runner
from live_avatar.cli.main import app
from live_avatar.client import LiveStats
from live_avatar.services.gateway.api import messages
from live_avatar.services.gateway.sessions.events import Event, EventKind
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

from ..client.fake_gateway import FakeGateway, Requests, Response, fake_gateway, serving

FAILED = 2


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``talk``."""
    result = CliRunner().invoke(app, ["talk", *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


def recording(path: Path, seconds: float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(int(seconds * 32_000)))
    return path


def test_a_recording_is_spoken_at_its_own_pace(tmp_path: Path) -> None:
    gateway, out = fake_gateway(), tmp_path / "out.mp4"
    speech = recording(tmp_path / "speech.wav", 1.5)
    with serving(gateway) as address:
        began = time.monotonic()
        code, output, errors = run("--audio", speech, "--out", out, "--gateway", address, "--prompt", "a drawing")
        elapsed = time.monotonic() - began
    assert code == 0, errors
    assert elapsed >= 1.4
    assert len(gateway.speech) == 48_000
    assert gateway.created[0].config.delivery == api.DELIVERY_LIVE
    assert gateway.created[0].config.prompt == "a drawing"
    assert output.splitlines()[-1] == f"{out}: H.264 and AAC"
    assert "late frames" in output
    assert out.stat().st_size > 0


def slow(gateway: FakeGateway, requests: Requests) -> Iterator[Response]:
    """Hears everything, says that the pipeline is slow and the speech late, and shows it."""
    facts = {"service": "denoise-stage-2", "late_ms": "480"}
    late = ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "PIPELINE_SLOW", "the pipeline is slow", facts)
    yield messages.notice(Event(kind=EventKind.DEGRADED, problem=late))
    starved = ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "AUDIO_STARVED", "no speech")
    for kind in (EventKind.DEGRADED, EventKind.RECOVERED):
        yield messages.notice(Event(kind=kind, problem=starved))
    yield from gateway.talk(requests)


def test_the_summary_says_what_made_the_video_stand_still(tmp_path: Path) -> None:
    gateway, out = fake_gateway(), tmp_path / "out.mp4"
    gateway.deliver = slow
    with serving(gateway) as address:
        code, output, errors = run(
            "--audio", recording(tmp_path / "speech.wav", 1.5), "--out", out, "--gateway", address
        )
    assert code == 0, errors
    first, *spoiled, last = output.splitlines()[-4:]
    assert "of video" in first and last == f"{out}: H.264 and AAC"
    assert spoiled[0] == "speech too late, silence in its place: 1 time"
    assert re.fullmatch(r"pipeline slower than real time: \d+\.\d s stalled, most time in denoise-stage-2", spoiled[1])


def test_the_line_shows_what_spoils_the_talk_now() -> None:
    seen = LiveStats(degraded=["PIPELINE_SLOW", "CLIENT_SLOW"], late_frames=3)
    assert talk_runner.describe(seen).endswith("pipeline slower than real time  finished video taken too late")
    assert "slower" not in talk_runner.describe(LiveStats())
    assert talk_runner.conclusions(LiveStats()) == []
    seen = LiveStats(spoiled=Counter(PIPELINE_SLOW=2, NEWER_REASON=3), stalled_s=4.24)
    assert talk_runner.conclusions(seen) == ["NEWER_REASON: 3 times", "pipeline slower than real time: 4.2 s stalled"]


def test_without_a_microphone_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk_runner, "has_microphone", lambda: False)
    code, _, errors = run()
    assert code == FAILED
    assert errors == "live-avatar: no microphone can be used here: pip install sounddevice, or give --audio FILE\n"


def test_what_is_no_recording_is_reported_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound at all")
    code, _, errors = run("--audio", tmp_path / "a.wav")
    assert code == FAILED
    assert "a.wav is no audio file that can be read" in errors
    assert len(errors.splitlines()) == 1


def test_a_gateway_that_is_not_there(tmp_path: Path) -> None:
    code, _, errors = run("--audio", recording(tmp_path / "speech.wav", 0.1), "--gateway", "127.0.0.1:1")
    assert code == FAILED
    assert "no gateway answers at 127.0.0.1:1" in errors.splitlines()[-1]
