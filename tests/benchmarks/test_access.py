"""The comparison of a pipeline with TLS and keys with one that has neither."""

import math
from pathlib import Path

import pytest

from benchmarks import access
from benchmarks.pipeline import Emulation
from benchmarks.sections import Workplace
from live_avatar.launcher.layout import parse_layout


@pytest.mark.slow
def test_both_pipelines_make_videos_and_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "FIRST_VIDEOS", 1)
    monkeypatch.setattr(access, "CREATIONS", 2)
    emulation = Emulation(layout=parse_layout("1x1"), step_ms=5, decode_ms=2)
    numbers = access.measured(emulation, Workplace(tmp_path), access.latencies)
    assert set(numbers) == {"tls_ttff_ratio", "plain_create_ms", "auth_create_ms"}
    assert all(math.isfinite(number) for number in numbers.values())
    assert numbers["tls_ttff_ratio"] > 0
    assert "UNAUTHENTICATED" not in (tmp_path / "logs/bench/guarded/gateway.log").read_text()
    for name in ("gateway", "vae-decoder"):
        assert '"event": "certificate"' in (tmp_path / f"logs/bench/guarded/{name}.log").read_text()
        assert '"event": "certificate"' not in (tmp_path / f"logs/bench/plain/{name}.log").read_text()
