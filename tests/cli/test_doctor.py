"""``live-avatar doctor``: made-up machines are judged rightly, and the real one without a crash."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from live_avatar.cli import machine
from live_avatar.cli.doctor import Finding, examine
from live_avatar.cli.machine import Gpu, Machine, TorchBuild
from live_avatar.cli.main import app

GPU = Gpu(
    name="H200",
    driver="570.1",
    capability=(9, 0),
    memory_mib=143_771,
    used_mib=4,
    busy_percent=0,
    throttled=False,
)
BUILD = TorchBuild(
    version="2.13.0",
    cuda="13.0",
    gpus_seen=1,
    attention={"cudnn": True, "flash": True, "memory efficient": True},
    cpu_capability="AVX512",
    threads=4,
    triton=True,
)
SOUND = Machine(
    gpus=(GPU,),
    gpu_error=None,
    torch=BUILD,
    cpu="Some processor",
    cpu_flags=frozenset({"avx2", "avx512f", "avx512_bf16"}),
    cores=8,
    compiler="/usr/bin/g++",
    environment={},
)


def warnings(subject: Machine) -> list[Finding]:
    return [finding for finding in examine(subject) if not finding.ok]


def test_a_sound_machine_has_no_warnings() -> None:
    assert warnings(SOUND) == []
    assert {finding.topic for finding in examine(SOUND)} == {
        "gpu 0", "torch", "attention", "compile", "threads", "cpu", "allocator"
    }  # fmt: skip
    assert "bf16 yes, fp8 yes" in next(examine(SOUND)).text


@pytest.mark.parametrize(
    ("subject", "topic", "text"),
    [
        (replace(SOUND, gpus=(), gpu_error="no driver", torch=replace(BUILD, gpus_seen=0)), "gpu", "no driver"),
        (replace(SOUND, gpus=(replace(GPU, capability=(7, 5)),)), "gpu 0", "no bf16"),
        (replace(SOUND, gpus=(replace(GPU, throttled=True),)), "gpu 0", "held down"),
        (replace(SOUND, gpus=(replace(GPU, busy_percent=70),)), "gpu 0", "70 % busy"),
        (replace(SOUND, gpus=(replace(GPU, used_mib=9000),)), "gpu 0", "9000 MiB"),
        (replace(SOUND, torch=None), "torch", "not installed"),
        (replace(SOUND, torch=replace(BUILD, cuda=None, gpus_seen=0)), "torch", "without CUDA"),
        (replace(SOUND, torch=replace(BUILD, gpus_seen=0)), "torch", "sees 0 of 1"),
        (
            replace(SOUND, torch=replace(BUILD, attention=dict.fromkeys(BUILD.attention, False))),
            "attention",
            "flash off",
        ),
        (replace(SOUND, torch=replace(BUILD, triton=False)), "compile", "no triton"),
        (replace(SOUND, compiler=None), "compile", "no C++ compiler"),
        (replace(SOUND, cores=2), "threads", "4 threads on 2 usable cores"),
        (
            replace(SOUND, environment={"CUDA_LAUNCH_BLOCKING": "1"}),
            "environment",
            "CUDA_LAUNCH_BLOCKING=1",
        ),
    ],
)
def test_each_trouble_is_one_warning_with_a_remedy(subject: Machine, topic: str, text: str) -> None:
    found = warnings(subject)
    assert [finding.topic for finding in found] == [topic]
    assert text in found[0].text and found[0].remedy


def test_a_cpu_without_bf16_matters_only_without_a_gpu() -> None:
    plain = replace(SOUND, cpu_flags=frozenset({"avx2"}))
    assert warnings(plain) == []
    topics = [finding.topic for finding in warnings(replace(plain, gpus=()))]
    assert topics == ["gpu", "cpu"]


def test_gpus_are_read_from_the_driver() -> None:
    new = "NVIDIA H200, 570.1, 9.0, 143771, 4, 0, Not Active, Not Active"
    old = "Old, 1.2, 7.5, 16000, 99, [N/A], Active, [N/A]"
    first, second = machine.parse_gpus(f"{new}\n{old}\n")
    assert first == replace(GPU, name="NVIDIA H200")
    assert (second.capability, second.busy_percent, second.throttled) == ((7, 5), 0, True)


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 1.5), ("max 100000", float("inf")), ("", float("inf"))])
def test_a_container_quota_counts(tmp_path_factory: pytest.TempPathFactory, text: str, cores: float) -> None:
    path = tmp_path_factory.mktemp("cgroup") / "cpu.max"
    path.write_text(text)
    assert machine.cpu_quota(path) == cores
    assert machine.cpu_quota(path.with_name("absent")) == float("inf")


def test_this_machine_is_described_in_lines_and_in_json() -> None:
    runner = CliRunner()
    lines = runner.invoke(app, ["doctor"])
    assert lines.exit_code == 0
    assert all(line.startswith(("OK  ", "WARN")) for line in lines.stdout.splitlines())
    answer = runner.invoke(app, ["doctor", "--json"])
    assert answer.exit_code == 0
    findings = json.loads(answer.stdout)
    assert len(findings) == len(lines.stdout.splitlines())
    assert all(finding["ok"] or finding["remedy"] for finding in findings)


def test_proxies_of_the_environment_are_named_with_the_remedy() -> None:
    environment = {"https_proxy": "http://user:secret@proxy.example:3128", "HTTP_PROXY": "proxy.example:80"}
    found = warnings(replace(SOUND, environment=environment))
    assert [finding.topic for finding in found] == ["proxy", "proxy"]
    assert "https_proxy=proxy.example:3128" in found[0].text and "HTTP_PROXY=proxy.example:80" in found[1].text
    assert all("no_proxy=" in finding.remedy and "secret" not in finding.text for finding in found)
