"""The whole way, shortened: emulated services behind the real gateway, the table and the file of numbers."""

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import __main__ as program
from benchmarks import timeline
from benchmarks.pipeline import EmulatedPipeline, Emulation
from benchmarks.sections import Numbers, Workplace
from benchmarks.sessions import STEADY_FROM, Run, offline, portrait
from live_avatar.client import AvatarClient
from live_avatar.config import S2V_14B
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import DECODER, ENCODER

pytestmark = pytest.mark.alone

BLOCKS = 12


@pytest.mark.slow
def test_emulated_services_deliver_every_block_in_order_at_the_pace_of_the_slowest(tmp_path: Path) -> None:
    emulation = Emulation(layout=parse_layout("2x1"), step_ms=30, decode_ms=10, traces=tmp_path / "traces")

    async def measure(gateway: str) -> Run:
        async with AvatarClient(gateway) as client:
            return await offline(client, portrait(704, 384), BLOCKS, S2V_14B)

    with EmulatedPipeline(emulation, tmp_path, print) as pipeline:
        run = asyncio.run(measure(pipeline.gateway))
    assert [unit.block_index for unit in run.units] == list(range(BLOCKS))
    assert sum(unit.frame_count for unit in run.units) == BLOCKS * S2V_14B.frames_per_block - 3
    assert run.frames_per_second * emulation.slowest_s / 12 <= 1.02
    assert run.first_video_s >= emulation.sum_s
    assert all(hop > 0 for hop in run.hops_s("denoise-stage-1", DECODER))
    services = (ENCODER, "denoise-stage-0", "denoise-stage-1", DECODER)
    spans = timeline.read_traces(tmp_path / "traces", services, run.session_id)
    assert {len(several) for several in spans.values()} == {BLOCKS}
    assert all(after.started_ns >= before.ended_ns for before, after in zip(*[iter(spans[DECODER])] * 2, strict=True))
    assert 0 < timeline.busy(spans["denoise-stage-0"], STEADY_FROM) <= 1
    timeline.draw(spans, tmp_path / "timeline.png", title="t", seconds=1.0, steady_from=STEADY_FROM)
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_the_file_has_flat_numbers_and_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(place: Workplace) -> Numbers:
        """One."""
        return {"fps_4x1": 78.0, "pipeline_efficiency_150ms": 0.975}

    def other(place: Workplace) -> Numbers:
        """Other."""
        return {"fps_1x4": 20.0}

    monkeypatch.setattr(program, "SECTIONS", {"one": one, "other": other})
    for chosen in (["one"], ["other"]):
        monkeypatch.setattr(sys, "argv", ["bench", *chosen, "--out", str(tmp_path)])
        program.main()
    results = json.loads((tmp_path / "bench.json").read_text())
    assert results["tpp_speedup"] == pytest.approx(3.9)
    assert results["pipeline_efficiency_150ms"] == 0.975
    assert "Python" in results["machine"]
    assert set(results) == {"fps_4x1", "fps_1x4", "pipeline_efficiency_150ms", "tpp_speedup", "machine"}
    assert "no" in capsys.readouterr().out


def test_an_unknown_section_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "nothing"])
    with pytest.raises(SystemExit, match="2"):
        program.main()


def test_a_bar_says_whether_a_value_is_good_enough() -> None:
    assert program.THRESHOLDS["tpp_speedup"].holds(3.8)
    assert not program.THRESHOLDS["tpp_speedup"].holds(3.79)
    assert not program.THRESHOLDS["ttff_factor"].holds(1.11)
    assert str(program.THRESHOLDS["ttff_factor"]) == "<= 1.1"


def test_the_table_shows_verdicts() -> None:
    shown = io.StringIO()
    console = Console(width=120, file=shown)
    console.print(program.table({"machine": "here", "ttff_factor": 1.2, "tpp_speedup": 3.9}))
    lines = shown.getvalue().splitlines()
    assert "here" in lines[0]
    assert ["no" in line for line in lines if "ttff_factor" in line] == [True]
    assert ["yes" in line for line in lines if "tpp_speedup" in line] == [True]
